"use strict";
(() => {
  const root = document.documentElement;

  // the theme: the system's, until somebody chooses
  const button = document.getElementById("theme");
  const themes = ["auto", "light", "dark"];
  const stored = () => { try { return localStorage.getItem("burnish-theme"); } catch { return null; } };
  const choose = (theme) => {
    if (theme === "auto") root.removeAttribute("data-theme"); else root.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
    try { localStorage.setItem("burnish-theme", theme); } catch { /* a file without storage forgets it */ }
  };
  button.hidden = false;
  choose(themes.includes(stored()) ? stored() : "auto");
  button.addEventListener("click", () => choose(themes[(themes.indexOf(root.dataset.theme ?? "auto") + 1) % themes.length]));

  // tables that sort: by the numbers behind the cells, or by their text
  const value = (row, place) => {
    const cell = row.cells[place];
    return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
  };
  const compare = (a, b) => (typeof a === typeof b
    ? (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }))
    : (typeof a === "number" ? 1 : -1));
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, place) => {
      const press = document.createElement("button");
      press.type = "button";
      press.textContent = head.textContent;
      head.replaceChildren(press);
      press.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "descending"
          || (!head.hasAttribute("aria-sort") && !head.classList.contains("number"));
        heads.forEach((one) => one.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "ascending" : "descending");
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => (down ? 1 : -1) * compare(value(a, place), value(b, place)));
        table.tBodies[0].append(...rows);
      });
    });
  }

  // what can be copied
  if (navigator.clipboard) {
    for (const listing of document.querySelectorAll(".listing")) {
      const press = document.createElement("button");
      press.type = "button";
      press.textContent = "Copy";
      press.addEventListener("click", async () => {
        try {
          await navigator.clipboard.writeText(listing.querySelector("code").textContent);
          press.textContent = "Copied";
        } catch {
          getSelection().selectAllChildren(listing.querySelector("code"));
          press.textContent = "Selected";
        }
        setTimeout(() => { press.textContent = "Copy"; }, 1500);
      });
      listing.firstElementChild.append(press);
    }
  }

  // what is folded is printed too
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((one) => { one.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((one) => { one.open = false; }));

  // the charts; a folded one is drawn once it has a width
  const data = JSON.parse(document.getElementById("charts").textContent);
  const options = {
    ast: true, actions: false, renderer: "svg", defaultStyle: false, config: data.config,
    tooltip: { disableDefaultStyle: true },
  };
  const draw = (place) => vegaEmbed(place, data.charts[Number(place.dataset.chart)], options);
  const places = [...document.querySelectorAll(".chart")];
  const open = places.filter((place) => place.closest("details:not([open])") === null);
  for (const place of places.filter((one) => !open.includes(one))) {
    place.closest("details").addEventListener("toggle", () => draw(place), { once: true });
  }
  Promise.all(open.map(draw)).then(() => { root.dataset.drawn = String(open.length); });
})();
