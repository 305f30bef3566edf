// Chooses all sessions on the page at once. Without it, they are chosen one by one.
"use strict";
{
    const all = document.getElementById("ss-all");
    if (all) {
        const boxes = [...document.querySelectorAll("#ss-chosen input[name=id]")];
        const update = () => {
            const chosen = boxes.filter((box) => box.checked).length;
            all.checked = chosen === boxes.length;
            all.indeterminate = chosen > 0 && !all.checked;
        };
        all.hidden = false;
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
