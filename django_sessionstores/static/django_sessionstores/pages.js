"use strict";
// Selects all sessions on the page at once. Without it, they are selected one by one.
{
    const all = document.getElementById("ss-all");
    if (all) {
        const boxes = [...document.querySelectorAll("#ss-chosen input[name=id]")];
        const update = () => {
            const chosen = boxes.filter((box) => box.checked).length;
            all.checked = chosen === boxes.length;
            all.indeterminate = chosen > 0 && !all.checked;
        };
        all.labels[0].hidden = false;
        all.addEventListener("change", () => {
            for (const box of boxes) {
                box.checked = all.checked;
            }
        });
        for (const box of boxes) {
            box.addEventListener("change", update);
        }
        update();
    }
}
// Continues what one request could not finish. Without it, the reader presses the button.
{
    const form = document.querySelector("form[data-continues]");
    if (form) {
        // Long enough to read how far it is, and to go back.
        setTimeout(() => form.requestSubmit(), 1500);
    }
}
