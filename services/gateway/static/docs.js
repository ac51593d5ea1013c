/** Shows the contract in Swagger UI, with the key of this tab and the theme of the page. */

import { key } from "./api.js";

const dark = matchMedia("(prefers-color-scheme: dark)");
const { theme } = document.documentElement.dataset;

function paint() {
  document.documentElement.classList.toggle("dark-mode", theme === "dark" || (theme === "auto" && dark.matches));
}

paint();
dark.addEventListener("change", paint);
window.SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  requestInterceptor(request) {
    if (key.value) request.headers.Authorization ??= `Bearer ${key.value}`;
    return request;
  },
});
