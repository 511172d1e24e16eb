"use strict";
(() => {
  const table = document.getElementById("rows");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const headers = [...table.tHead.rows[0].cells];
  const filter = document.getElementById("filter");
  const selects = [...document.querySelectorAll(".controls select")];
  const count = document.getElementById("count");
  const views = [...document.querySelectorAll(".views button")];
  const firstView = views.length ? views[0].dataset.view : "all";
  const state = { sort: "", direction: 1, view: firstView };

  // Rows without a value stay last in either direction; equal ones keep the order of the page.
  const sortRows = () => {
    const column = headers.findIndex((header) => header.dataset.key === state.sort);
    headers.forEach((header, position) => {
      if (position === column) header.setAttribute("aria-sort", state.direction > 0 ? "ascending" : "descending");
      else header.removeAttribute("aria-sort");
    });
    if (column < 0) return body.append(...rows);
    const numeric = headers[column].classList.contains("number");
    const value = (row) => {
      const text = row.cells[column].dataset.order;
      return text === "" ? null : numeric ? Number(text) : text;
    };
    const keyed = rows.map((row, position) => [value(row), position, row]);
    keyed.sort(([a, i], [b, j]) => {
      if (a === null || b === null) return (a === null) - (b === null) || i - j;
      const order = numeric ? a - b : a.localeCompare(b, "en", { numeric: true });
      return order * state.direction || i - j;
    });
    body.append(...keyed.map(([, , row]) => row));
  };

  const narrow = () => {
    if (!filter) return;
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      row.hidden = !(
        words.every((word) => row.dataset.words.includes(word)) &&
        selects.every((select) => !select.value || row.dataset[select.id] === select.value)
      );
      shown += !row.hidden;
    }
    count.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
  };

  const showView = () => {
    table.dataset.view = state.view;
    for (const button of views) button.setAttribute("aria-pressed", String(button.dataset.view === state.view));
  };

  // The address after # is the state, so that a view can be sent to someone. Anything without "=" is the place of a figure or a heading.
  const write = () => {
    const parts = new URLSearchParams();
    if (filter && filter.value.trim()) parts.set("q", filter.value.trim());
    for (const select of selects) if (select.value) parts.set(select.id, select.value);
    if (state.sort) parts.set("sort", (state.direction > 0 ? "" : "-") + state.sort);
    if (state.view !== firstView) parts.set("view", state.view);
    try { history.replaceState(null, "", parts.size ? `#${parts}` : location.pathname + location.search); } catch { /* some file:// pages may not */ }
  };
  const read = () => {
    const text = location.hash.slice(1);
    if (text && !text.includes("=")) return false;
    const parts = new URLSearchParams(text);
    if (filter) filter.value = parts.get("q") || "";
    for (const select of selects) {
      const wanted = parts.get(select.id) || "";
      select.value = [...select.options].some((option) => option.value === wanted) ? wanted : "";
    }
    const sort = parts.get("sort") || "";
    state.direction = sort.startsWith("-") ? -1 : 1;
    state.sort = sort.replace(/^-/, "");
    state.view = views.some((button) => button.dataset.view === parts.get("view")) ? parts.get("view") : firstView;
    return true;
  };
  const show = () => { sortRows(); narrow(); showView(); };

  headers.forEach((header) => {
    header.querySelector("button").addEventListener("click", () => {
      state.direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      state.sort = header.dataset.key;
      sortRows();
      write();
    });
  });
  for (const control of filter ? [filter, ...selects] : []) {
    for (const event of ["input", "change"]) control.addEventListener(event, () => { narrow(); write(); });
  }
  for (const button of views) {
    button.addEventListener("click", () => { state.view = button.dataset.view; showView(); write(); });
  }
  document.getElementById("reset")?.addEventListener("click", () => {
    if (filter) filter.value = "";
    for (const select of selects) select.value = "";
    Object.assign(state, { sort: "", direction: 1, view: firstView });
    show();
    write();
  });
  if (filter) {
    addEventListener("hashchange", () => {
      if (!read()) return;
      show();
      if (location.hash) document.getElementById("rows-title").scrollIntoView();
    });
    if (location.hash.includes("=")) read();
  }
  show(); // a browser that restores a form on reload restores what it filtered by as well
})();
