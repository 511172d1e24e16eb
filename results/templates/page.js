"use strict";
(() => {
  const table = document.getElementById("rows");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const headers = [...table.tHead.rows[0].cells];
  const [filter, size, scheme, count] = ["filter", "size", "scheme", "count"].map((id) => document.getElementById(id));

  // Rows without a value stay last in either direction; equal ones keep the order of the page.
  const sortBy = (column, direction) => {
    const numeric = headers[column].classList.contains("number");
    const value = (row) => {
      const text = row.cells[column].dataset.order;
      return text === "" ? null : numeric ? Number(text) : text;
    };
    const keyed = rows.map((row, position) => [value(row), position, row]);
    keyed.sort(([a, i], [b, j]) => {
      if (a === null || b === null) return (a === null) - (b === null) || i - j;
      const order = numeric ? a - b : a.localeCompare(b, "en", { numeric: true });
      return order * direction || i - j;
    });
    body.append(...keyed.map(([, , row]) => row));
    headers.forEach((header, position) => {
      if (position === column) header.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      else header.removeAttribute("aria-sort");
    });
  };

  headers.forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => {
      sortBy(column, header.getAttribute("aria-sort") === "ascending" ? -1 : 1);
    });
  });

  const narrow = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const { words: text, size: ofSize, scheme: ofScheme } = row.dataset;
      row.hidden = !(
        words.every((word) => text.includes(word)) &&
        (!size.value || ofSize === size.value) &&
        (!scheme.value || ofScheme === scheme.value)
      );
      shown += !row.hidden;
    }
    count.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
  };
  for (const control of [filter, size, scheme]) {
    for (const event of ["input", "change"]) control.addEventListener(event, narrow);
  }
  narrow(); // a browser that restores a form on reload restores what it filtered by as well
})();
