/** A dialog for one action. */

import { failure, h } from "./dom.js";

/** Opens a dialog with a title, a text and one action, which closing it stops. */
export function dialogue(title, text, fields, action, act) {
  const outcome = h("div", { class: "outcome", "aria-live": "polite" });
  const go = h("button", { class: "primary", type: "submit" }, action);
  const close = h("button", { type: "button", onclick: () => dialog.close() }, "Cancel");
  const form = h("form", {}, h("h2", { id: "dialogue-title" }, title), h("p", {}, text), fields, outcome, h("div", { class: "row end" }, close, go));
  const dialog = h("dialog", { "aria-labelledby": "dialogue-title" }, form);
  const acting = new AbortController();
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    outcome.replaceChildren();
    try {
      await act(outcome, acting.signal);
      go.hidden = true;
    } catch (error) {
      if (error.name === "AbortError") return;
      outcome.replaceChildren(failure(error));
      go.disabled = false;
    }
    close.textContent = "Close";
  });
  dialog.addEventListener("close", () => {
    acting.abort();
    dialog.remove();
  });
  document.body.append(dialog);
  dialog.showModal();
}
