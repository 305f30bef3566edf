// Sends two requests at once, as two tabs would, and shows what both left behind.
"use strict";

const form = document.querySelector("[data-parallel]");
const outcome = document.querySelector("[data-outcome]");
const sides = [...document.querySelectorAll("[data-side]")];

async function write(side) {
    const body = new FormData(form);
    body.set("side", side);
    const response = await fetch(form.action, { method: "POST", body });
    if (!response.ok) throw new Error(`the ${side} request was answered with ${response.status}`);
}

async function counts() {
    const response = await fetch(form.action);
    if (!response.ok) throw new Error(`reading was answered with ${response.status}`);
    return response.json();
}

form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    // Not the attribute "disabled", which would take the focus away from keyboard users.
    if (button.getAttribute("aria-disabled") === "true") return;
    button.setAttribute("aria-disabled", "true");
    outcome.textContent = "Both are under way …";
    try {
        const before = await counts();
        await Promise.all(sides.map((cell) => write(cell.dataset.side)));
        const after = await counts();
        const lost = sides.map((cell) => cell.dataset.side).filter((s) => after[s] !== before[s] + 1);
        for (const cell of sides) cell.textContent = after[cell.dataset.side];
        outcome.textContent = lost.length
            ? `Lost: ${lost.join(", ")}.`
            : "Both writes are there.";
    } catch (error) {
        outcome.textContent = `That did not work: ${error.message}.`;
    } finally {
        button.removeAttribute("aria-disabled");
    }
});
