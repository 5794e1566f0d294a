"use strict";
// Without this script the page reads the same; with it pictures filter, enlarge and answer to arrow keys.
(() => {
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  all(".scripted").forEach((part) => { part.hidden = false; });

  const viewer = document.querySelector("dialog");
  const large = viewer.querySelector("img");
  const words = viewer.querySelector("figcaption");
  let shown = null;

  function rowsOf(button) {
    const grid = button.closest(".grid");
    const rows = grid ? all("tbody tr", grid) : [button.closest(".photos")];
    return rows.map((row) => all(".picture", row).filter((other) => other.offsetParent));
  }

  function neighbour(button, key) {
    const rows = rowsOf(button).filter((row) => row.length);
    const y = rows.findIndex((row) => row.includes(button));
    const x = rows[y].indexOf(button);
    const down = key === "ArrowDown" ? 1 : key === "ArrowUp" ? -1 : 0;
    const right = key === "ArrowRight" ? 1 : key === "ArrowLeft" ? -1 : 0;
    const row = rows[y + down];
    return row && row[Math.min(x, row.length - 1) + right];
  }

  function show(button) {
    const small = button.querySelector("img");
    const room = Math.min(innerWidth * 0.9 - 32, innerHeight * 0.76);
    const crisp = small.classList.contains("crisp");
    const most = Math.min(512, room);
    const factor = crisp ? Math.max(1, Math.floor(most / small.naturalWidth)) : Math.max(1, most / small.naturalWidth);
    shown = button;
    large.src = small.src;
    large.alt = small.alt;
    large.className = small.className;
    large.width = small.naturalWidth * factor;
    words.textContent = small.alt;
    if (!viewer.open) viewer.showModal();
  }

  function step(event, from, use) {
    if (!event.key.startsWith("Arrow")) return;
    const to = neighbour(from, event.key);
    event.preventDefault();
    if (to) use(to);
  }

  function focus(button) {
    all(".picture", button.closest(".box")).forEach((other) => { other.tabIndex = -1; });
    button.tabIndex = 0;
    button.focus();
  }

  all(".box").forEach((box) => {
    all(".picture", box).forEach((button, index) => {
      button.tabIndex = index ? -1 : 0;
      button.addEventListener("click", () => show(button));
      button.addEventListener("keydown", (event) => step(event, button, focus));
    });
  });
  viewer.addEventListener("keydown", (event) => step(event, shown, show));
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("close", () => { if (shown) focus(shown); });

  const form = document.querySelector(".filters");
  function filter() {
    const asked = (name) => (form.elements[name] ? form.elements[name].value.trim().toLowerCase() : "");
    const subject = asked("subject");
    const kind = asked("kind");
    const prompt = asked("prompt");
    const seen = new Set();
    let total = new Set();
    all(".subject").forEach((section) => {
      section.hidden = Boolean(subject) && section.dataset.subject.toLowerCase() !== subject;
      all("[data-prompt]", section).forEach((cell) => {
        const right = !kind || cell.dataset.kind.toLowerCase() === kind;
        cell.hidden = !(right && cell.dataset.prompt.toLowerCase().includes(prompt));
        total.add(section.dataset.subject + cell.dataset.prompt);
        if (!cell.hidden && !section.hidden) seen.add(section.dataset.subject + cell.dataset.prompt);
      });
      all(".box", section).forEach((box) => {
        const visible = all(".picture", box).filter((button) => !button.closest("[hidden]"));
        if (visible.length && !visible.some((button) => button.tabIndex === 0)) visible[0].tabIndex = 0;
      });
    });
    form.querySelector("output").textContent = `${seen.size} of ${total.size} columns shown`;
  }
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
})();
