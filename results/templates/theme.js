"use strict";
(() => {
  const root = document.documentElement;
  const modes = ["auto", "light", "dark"];
  let mode = "auto";
  try { mode = localStorage.getItem("resbench-theme") || "auto"; } catch { /* a page without storage keeps to the system's choice */ }
  const apply = () => {
    if (mode === "auto") root.removeAttribute("data-theme");
    else root.setAttribute("data-theme", mode);
    const button = document.getElementById("theme");
    if (button) button.textContent = `Theme: ${mode}`;
  };
  if (!modes.includes(mode)) mode = "auto";
  apply();
  root.classList.add("scripted");
  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    button.hidden = false;
    apply();
    button.addEventListener("click", () => {
      mode = modes[(modes.indexOf(mode) + 1) % modes.length];
      try { localStorage.setItem("resbench-theme", mode); } catch { /* see above */ }
      apply();
    });
  });
})();
