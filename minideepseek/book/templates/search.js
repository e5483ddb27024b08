const box = document.querySelector("input[name=q]"), count = document.querySelector(".found");
const entries = [...document.querySelectorAll(".index li")];
const texts = entries.map(entry => entry.textContent.toLowerCase());
const groups = [...document.querySelectorAll(".index section")];

function search() {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  entries.forEach((entry, i) => {
    entry.hidden = !words.every(word => texts[i].includes(word));
    found += !entry.hidden;
  });
  for (const group of groups) group.hidden = !group.querySelector("li:not([hidden])");
  count.textContent = words.length ? `${found.toLocaleString("en")} found` : "";
}

box.value = new URLSearchParams(location.search).get("q") ?? "";
box.addEventListener("input", search);
document.querySelector("form").addEventListener("submit", event => {
  event.preventDefault();
  const first = entries.find(entry => !entry.hidden);
  if (first && box.value) location.href = first.querySelector("a").href;
});
search();
box.focus();
