"use strict";
// Folds, sorts and switches what is already on the page. It makes no figure, keeps nothing
// and asks nobody: without it the page shows the same, one part below the other.
(() => {
  const all = (selector, within = document) => Array.from(within.querySelectorAll(selector));
  const element = (name, properties) => Object.assign(document.createElement(name), properties);

  /** Turns the list of links into tabs, by the ARIA pattern of that name. */
  function tabs() {
    const list = document.querySelector(".sections ul");
    const links = all("a", list);
    const panels = links.map((link) => document.querySelector(link.hash));
    list.setAttribute("role", "tablist");
    list.setAttribute("aria-label", "Parts of the report");

    const show = (chosen, focus) => {
      links.forEach((link, i) => {
        link.setAttribute("aria-selected", String(i === chosen));
        link.tabIndex = i === chosen ? 0 : -1;
        panels[i].hidden = i !== chosen;
      });
      if (focus) links[chosen].focus();
    };

    links.forEach((link, i) => {
      link.parentElement.setAttribute("role", "presentation");
      link.id = "tab-" + panels[i].id;
      link.setAttribute("role", "tab");
      link.setAttribute("aria-controls", panels[i].id);
      panels[i].setAttribute("role", "tabpanel");
      panels[i].setAttribute("aria-labelledby", link.id);
      link.addEventListener("click", (event) => {
        event.preventDefault();
        show(i, true);
        remember(link.hash);
      });
      link.addEventListener("keydown", (event) => {
        const last = links.length - 1;
        const to = {
          ArrowRight: i === last ? 0 : i + 1,
          ArrowLeft: i === 0 ? last : i - 1,
          Home: 0,
          End: last,
        }[event.key];
        if (event.key === " ") {
          event.preventDefault();
          link.click();
        } else if (to !== undefined) {
          event.preventDefault();
          show(to, true);
          remember(links[to].hash);
        }
      });
    });

    // An address may name a part, or something inside one.
    const follow = () => {
      const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
      const found = panels.findIndex((panel) => target && panel.contains(target));
      show(Math.max(found, 0), false);
      if (found >= 0 && target !== panels[found]) {
        target.scrollIntoView();
        target.focus({ preventScroll: true });
      }
    };
    window.addEventListener("hashchange", follow);
    follow();
  }

  /** Keeps the address in step, so that a copied one opens the same part. */
  function remember(hash) {
    try {
      history.replaceState(null, "", hash);
    } catch {
      // Some browsers refuse it to files; the address is a convenience only.
    }
  }

  /** One ledger's causes at a time, chosen in the table of ledgers. */
  function ledgers() {
    const choices = all('input[name="ledger"]');
    const paretos = all(".pareto");
    const show = () => {
      const chosen = choices.find((choice) => choice.checked);
      paretos.forEach((pareto) => {
        pareto.classList.toggle("chosen", pareto.dataset.ledger === chosen.value);
      });
    };
    choices.forEach((choice) => choice.addEventListener("change", show));
    if (choices.length > 0) show();
  }

  /** A switch that leaves only the rows of waste in each table of causes. */
  function wasteOnly() {
    const boxes = all(".pareto .heading").map((heading) => {
      const box = element("input", { type: "checkbox" });
      const label = element("label", { className: "filter" });
      label.append(box, "waste only");
      heading.append(label);
      return box;
    });
    boxes.forEach((box) => box.addEventListener("change", () => {
      boxes.forEach((other) => { other.checked = box.checked; });
      all(".pareto").forEach((pareto) => pareto.classList.toggle("waste-only", box.checked));
    }));
  }

  /** Rows that open to tell more. */
  function folds() {
    all(".folding tbody").forEach((body, i) => {
      const name = body.querySelector(".fold");
      const more = body.querySelector(".folded");
      if (!name || !more) return;
      more.id = "more-" + i;
      const button = element("button", { type: "button", className: "fold" });
      button.append(...name.childNodes);
      button.setAttribute("aria-controls", more.id);
      const open = (is) => {
        button.setAttribute("aria-expanded", String(is));
        more.hidden = !is;
      };
      button.addEventListener("click", () => open(more.hidden));
      open(false);
      name.replaceWith(button);
    });
  }

  /** Headers that sort. Each entry of such a table is a tbody of its own. */
  function sorting() {
    const key = (body, column) => {
      const cell = body.rows[0].cells[column];
      // What has no number sorts below everything that has one.
      return cell.dataset.key === undefined
        ? cell.textContent.trim()
        : Number(cell.dataset.key || "-Infinity");
    };
    const compare = (a, b) =>
      typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b || 0;
    all("table.sortable").forEach((table) => {
      all("th[data-sort]", table).forEach((header) => {
        const button = element("button", { type: "button" });
        button.append(...header.childNodes);
        header.append(button);
        if (header.dataset.sort) header.setAttribute("aria-sort", header.dataset.sort);
        const numbers = header.classList.contains("n");
        button.addEventListener("click", () => {
          const column = header.cellIndex;
          const before = header.getAttribute("aria-sort");
          // Figures are most interesting from the largest down, names from the first on.
          const first = numbers ? "descending" : "ascending";
          const second = numbers ? "ascending" : "descending";
          const order = before === first ? second : first;
          const sign = order === "ascending" ? 1 : -1;
          const entries = Array.from(table.tBodies).map((body) => [key(body, column), body]);
          entries.sort((a, b) => sign * compare(a[0], b[0]));
          table.append(...entries.map((entry) => entry[1]));
          all("th[aria-sort]", table).forEach((other) => other.removeAttribute("aria-sort"));
          header.setAttribute("aria-sort", order);
        });
      });
    });
  }

  /** Light or dark, where the reader wants it otherwise than the system. */
  function theme() {
    const root = document.documentElement;
    const button = element("button", { type: "button" });
    const dark = () => root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    const label = () => { button.textContent = dark() ? "Light theme" : "Dark theme"; };
    button.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      label();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
    label();
    document.querySelector(".sections").append(button);
  }

  /** Paper cannot be opened: tables of numbers are printed in full. */
  function printing() {
    let opened = [];
    window.addEventListener("beforeprint", () => {
      opened = all("details:not([open])");
      opened.forEach((details) => { details.open = true; });
    });
    window.addEventListener("afterprint", () => {
      opened.forEach((details) => { details.open = false; });
    });
  }

  /** Escape puts away where a figure comes from, until the reader points elsewhere. */
  function tips() {
    const root = document.documentElement;
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") root.classList.add("tips-off");
    });
    ["pointerover", "focusin"].forEach((name) => document.addEventListener(name, (event) => {
      if (event.target.closest(".from")) root.classList.remove("tips-off");
    }));
  }

  /** The sheet alone, on paper of its own size. */
  function sheet() {
    const root = document.documentElement;
    const button = element("button", {
      type: "button", className: "print-sheet", textContent: "Print this sheet (A3, landscape)",
    });
    button.addEventListener("click", () => {
      root.classList.add("only-sheet");
      window.print();
      root.classList.remove("only-sheet");
    });
    document.querySelector(".sheet").before(button);
  }

  document.documentElement.classList.add("js");
  tabs();
  ledgers();
  wasteOnly();
  folds();
  sorting();
  theme();
  printing();
  sheet();
  tips();
})();
