// Applies the chosen theme before the first paint; app.js lets people change it.
try {
  document.documentElement.dataset.theme = localStorage.getItem("search-agent.theme") ?? "auto";
} catch {
  document.documentElement.dataset.theme = "auto"; // the browser keeps nothing for this page
}
