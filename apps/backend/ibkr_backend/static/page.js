"use strict";
// A reading of the chart by pointer, finger and arrow keys, and fresh content without a reload.

const QUIET_MS = 30000;
const BUSY_MS = 5000;

function readings(root) {
  const chart = root.querySelector(".chart");
  const source = root.querySelector("#chart-data");
  if (!chart || !source) return;
  const drawn = JSON.parse(source.textContent);
  const out = root.querySelector(".reading");
  let at = drawn.wide.dates.length - 1;
  const visible = () => (getComputedStyle(chart.querySelector(".slim")).display === "none" ? "wide" : "narrow");

  function show(index) {
    const kind = visible();
    const data = drawn[kind];
    at = Math.max(0, Math.min(data.dates.length - 1, index));
    const svg = chart.querySelector(kind === "wide" ? ".full svg" : ".slim svg");
    const box = svg.viewBox.baseVal;
    const x = data.xs[at] * box.width;
    const y = data.ys[at] * box.height;
    svg.querySelectorAll(".cursor, .spot").forEach((old) => old.remove());
    const make = (name, values) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(values)) made.setAttribute(key, value);
      svg.append(made);
    };
    make("path", { class: "cursor", d: `M${x} 8V${box.height - 40}` });
    make("circle", { class: "spot", cx: x, cy: y, r: 5 });
    const signal = drawn.signals[data.dates[at]];
    const price = data.closes[at].toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
    out.textContent = `${data.dates[at]}: close ${price}` + (signal ? `, ${signal}` : "");
  }

  function nearest(event) {
    const data = drawn[visible()];
    const box = chart.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    let best = 0;
    data.xs.forEach((x, n) => { if (Math.abs(x - share) < Math.abs(data.xs[best] - share)) best = n; });
    show(best);
  }

  chart.addEventListener("pointermove", nearest);
  chart.addEventListener("pointerdown", nearest);
  chart.addEventListener("keydown", (event) => {
    const month = 21;
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -month, PageDown: month, Home: -1e9, End: 1e9 };
    if (event.key in steps) {
      event.preventDefault();
      show(at + steps[event.key]);
    }
  });
}

async function renew() {
  let busy = document.querySelector("[data-busy]");
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.redirected || !answer.ok) {
      // To the login.
      if (answer.redirected || answer.status === 401) location.reload();
      return;
    }
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.title = fresh.title;
    for (const part of document.querySelectorAll("[data-live]")) {
      const other = fresh.getElementById(part.id);
      // What somebody is reading or about to press stays.
      if (!other || part.contains(document.activeElement) || part.matches(":hover")) continue;
      if (other.innerHTML !== part.dataset.was) {
        part.dataset.was = other.innerHTML;
        const open = part.querySelector("details[open]");
        part.innerHTML = other.innerHTML;
        if (open && part.querySelector("details")) part.querySelector("details").open = true;
        if (part.id === "prices") readings(part);
      }
    }
    busy = document.querySelector("[data-busy]");
  } catch (error) {
    console.warn("no fresh content:", error.message);
  } finally {
    setTimeout(renew, busy ? BUSY_MS : QUIET_MS);
  }
}

document.querySelectorAll("[data-live]").forEach((part) => { part.dataset.was = part.innerHTML; });
readings(document);
setTimeout(renew, document.querySelector("[data-busy]") ? BUSY_MS : QUIET_MS);
