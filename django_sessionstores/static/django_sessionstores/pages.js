"use strict";
// Selects all sessions on the page at once. Without it, they are selected one by one.
{
    const all = document.getElementById("ss-all");
    if (all) {
        const counter = document.getElementById("ss-counter");
        const boxes = [...document.querySelectorAll("#ss-chosen input[name=id]")];
        const update = () => {
            const chosen = boxes.filter((box) => box.checked).length;
            all.checked = chosen === boxes.length;
            all.indeterminate = chosen > 0 && !all.checked;
            const text = counter.dataset.text.replace("%(sel)s", chosen);
            counter.textContent = text.replace("%(cnt)s", boxes.length);
        };
        all.labels[0].hidden = false;
        all.addEventListener("change", () => {
            for (const box of boxes) {
                box.checked = all.checked;
            }
            update();
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
// Shows times in the time zone of the reader. Without it, they are in that of the site.
{
    const language = document.documentElement.lang || undefined;
    const format = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "long" });
    const short = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });
    const exact = (text) => format.format(new Date(text));
    for (const time of document.querySelectorAll(".ss time")) {
        if ("exact" in time.dataset) {
            time.textContent = exact(time.dateTime);
        } else {
            time.title = exact(time.dateTime);
        }
    }
    for (const bar of document.querySelectorAll(".ss-bar")) {
        const { number, begin, end } = bar.dataset;
        const span = short.formatRange(new Date(begin), new Date(end));
        const label = `${number}: ${span}`;
        bar.setAttribute("aria-label", label);
        bar.querySelector("title").textContent = label;
    }
    const zone = document.getElementById("ss-zone");
    if (zone) {
        zone.textContent = format.resolvedOptions().timeZone;
    }
}
// Tells the value of a bar under the mouse or the focus. A chart is one stop of the Tab key, and
// the arrow keys go from bar to bar.
for (const figure of document.querySelectorAll("figure.ss-figure")) {
    const bars = [...figure.querySelectorAll(".ss-bar")];
    const readout = figure.querySelector(".ss-readout");
    const show = (bar) => {
        readout.textContent = bar.getAttribute("aria-label");
    };
    bars.forEach((bar, place) => {
        bar.setAttribute("tabindex", place ? "-1" : "0");
        bar.addEventListener("mouseenter", () => show(bar));
        bar.addEventListener("focus", () => show(bar));
        bar.addEventListener("keydown", (event) => {
            const back = document.documentElement.dir === "rtl" ? "ArrowRight" : "ArrowLeft";
            const steps = { ArrowLeft: 1, ArrowRight: 1, [back]: -1, Home: -place };
            steps.End = bars.length - 1 - place;
            const next = event.key in steps ? bars[place + steps[event.key]] : undefined;
            if (next) {
                event.preventDefault();
                bar.setAttribute("tabindex", "-1");
                next.setAttribute("tabindex", "0");
                next.focus();
            }
        });
    });
}
// On paper, the tables of the charts are open.
addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll(".ss-figure details")) {
        details.open = true;
    }
});
