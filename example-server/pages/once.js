// A second click on a button of a form that is already on its way does nothing. The
// server takes a decision once anyway; this only spares people the page that says so.
for (const form of document.querySelectorAll("form[data-once]")) {
  let sent = false;
  form.addEventListener("submit", (event) => {
    if (sent) event.preventDefault();
    sent = true;
  });
  addEventListener("pageshow", () => { sent = false; });
}
