// Copies commands, and renews the page while it is visible. The page needs none of this.
"use strict";
const seconds = Number(document.body.dataset.refresh) || 5;
let lastSeen = Date.now();
let printing = false;

function buttons() {
  if (!navigator.clipboard) return;
  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.hidden = false;
    button.onclick = async () => {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    };
  }
}

function show(renewed) {
  const opened = new Set([...document.querySelectorAll("details[open]")].map((each) => each.id));
  for (const part of ["main", ".as-of"]) {
    const [before, after] = [document.querySelector(part), renewed.querySelector(part)];
    if (!before || !after || before.innerHTML === after.innerHTML) continue;
    before.replaceChildren(...after.childNodes);
  }
  for (const each of document.querySelectorAll("details")) each.open = opened.has(each.id);
  document.title = renewed.title;
  buttons();
}

async function renew() {
  const stale = document.getElementById("stale");
  if (document.hidden || printing || window.getSelection().toString()) return;
  try {
    const answer = await fetch(location.pathname, { headers: { accept: "text/html" }, cache: "no-store" });
    if (!answer.ok) throw new Error(String(answer.status));
    show(new DOMParser().parseFromString(await answer.text(), "text/html"));
    lastSeen = Date.now();
    stale.hidden = true;
  } catch {
    stale.textContent = `no answer for ${Math.round((Date.now() - lastSeen) / 1000)} s: this page is old`;
    stale.hidden = false;
  }
}

buttons();
addEventListener("beforeprint", () => { printing = true; });
addEventListener("afterprint", () => { printing = false; });
setInterval(renew, seconds * 1000);
