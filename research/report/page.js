"use strict";
(() => {
  const get = (id) => document.getElementById(id);
  const list = get("claim-list");
  const claims = [...list.children];
  const fields = ["paper", "row", "verdict", "order", "search"].map(get);
  const [paper, row, verdict, order, search] = fields;
  const ranks = { holds: 0, fails: 1, open: 2 };
  const keys = {
    place: (claim) => Number(claim.dataset.place),
    verdict: (claim) => ranks[claim.dataset.verdict],
    strong: (claim) => -Number(claim.dataset.evidence),
    weak: (claim) => Number(claim.dataset.evidence),
  };
  const texts = new Map(claims.map((claim) => [claim, claim.textContent.toLowerCase()]));

  function show() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const claim of claims) {
      const data = claim.dataset;
      const wanted = (!paper.value || data.paper === paper.value)
        && (!row.value || data.rows.split(" ").includes(row.value))
        && (!verdict.value || data.verdict === verdict.value)
        && words.every((word) => texts.get(claim).includes(word));
      claim.hidden = !wanted;
      shown += wanted;
    }
    const key = keys[order.value];
    const sorted = [...claims].sort((a, b) => key(a) - key(b) || keys.place(a) - keys.place(b));
    list.append(...sorted);
    get("shown").textContent = `${shown} of ${claims.length}`;
  }
  for (const field of fields) field.addEventListener("input", show);
  get("filters").addEventListener("reset", () => setTimeout(show));
  for (const link of document.querySelectorAll("[data-row]")) {
    link.addEventListener("click", () => { get("filters").reset(); row.value = link.dataset.row; show(); });
  }
  function unhide() {
    const aimed = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (aimed && aimed.hidden) { get("filters").reset(); setTimeout(() => { show(); aimed.scrollIntoView(); }); }
  }
  addEventListener("hashchange", unhide);

  const tip = get("tip");
  function tell(target) {
    tip.textContent = target.dataset.tip;
    tip.hidden = false;
    const at = target.getBoundingClientRect();
    const size = tip.getBoundingClientRect();
    const left = Math.min(Math.max(at.left + at.width / 2 - size.width / 2, 8), innerWidth - size.width - 8);
    const above = at.top - size.height - 8;
    tip.style.left = `${left + scrollX}px`;
    tip.style.top = `${(above > 4 ? above : at.bottom + 8) + scrollY}px`;
  }
  const aimed = (event) => event.target.closest?.("[data-tip]");
  for (const kind of ["pointerover", "focusin", "click"]) {
    document.addEventListener(kind, (event) => { const target = aimed(event); target ? tell(target) : (tip.hidden = true); });
  }
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      try { await navigator.clipboard.writeText(button.dataset.copy); button.textContent = "copied"; }
      catch { const range = document.createRange(); range.selectNodeContents(button.previousElementSibling);
        getSelection().removeAllRanges(); getSelection().addRange(range); button.textContent = "selected"; }
      setTimeout(() => { button.textContent = "copy"; }, 1500);
    });
  }
  get("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  addEventListener("beforeprint", () => { for (const box of document.querySelectorAll(".heat-box")) box.open = true; });
  show();
  unhide();
})();
