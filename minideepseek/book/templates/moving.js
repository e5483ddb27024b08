const less = matchMedia("(prefers-reduced-motion: reduce)");

// kind → a function of the figure, its data and its stage that draws frame i.
const kinds = {
  cache(stage, data) {
    const bars = stage.querySelectorAll("b"), outs = stage.querySelectorAll("output");
    return i => {
      data.sizes.forEach((size, row) => {
        const bytes = size * data.contexts[i];
        bars[row].style.setProperty("--part", Math.min(1, bytes / data.card));
        bars[row].parentNode.classList.toggle("over", bytes > data.card);
        outs[row].textContent = (bytes / 1e9).toFixed(bytes >= 1e11 ? 0 : 1) + " GB";
      });
      return `context ${data.contexts[i].toLocaleString("en")} tokens`;
    };
  },
  experts(stage, data) {
    const letters = stage.querySelectorAll(".tinted b"), loads = stage.querySelectorAll(".loads b");
    return i => {
      const experts = [...data.experts[i]], counts = new Array(loads.length).fill(0);
      experts.forEach((e, n) => { letters[n].className = "e" + e; counts[e]++; });
      loads.forEach((bar, e) => bar.style.setProperty("--part", counts[e] / experts.length));
      return data.says[i];
    };
  },
  drafts(stage, data) {
    const marks = [...stage.querySelectorAll(".drafted b")];
    const at = marks.map(mark => [+mark.dataset.r, +mark.dataset.f, mark.className]);
    return i => {
      const round = Math.max(...at.filter(([, f]) => f <= i).map(([r]) => r));
      marks.forEach((mark, n) => {
        const [r, f, kind] = at[n], refused = kind === "no" || kind === "lost";
        const drafted = kind === "yes" || refused;
        mark.hidden = r > round || (r < round && refused) || (r === round && f > i && !drafted);
        mark.className = r === round && f > i ? "waiting" : kind;
      });
      return data.says[i];
    };
  },
  thoughts(stage, data) {
    const pages = [...stage.querySelector(".answers").children];
    const bars = stage.querySelectorAll(".rewards b");
    return i => {
      pages.forEach((page, n) => { page.hidden = n !== i; });
      bars.forEach((bar, n) => bar.classList.toggle("now", n === i));
      return data.says[i];
    };
  },
};

for (const figure of document.querySelectorAll("figure.moves")) {
  const data = JSON.parse(figure.querySelector("script").textContent);
  const draw = kinds[figure.dataset.kind](figure.querySelector(".stage"), data);
  const last = +figure.dataset.last, says = figure.querySelector(".says");
  const controls = document.createElement("div"), button = document.createElement("button");
  const range = document.createElement("input");
  controls.className = "controls";
  Object.assign(range, {type: "range", min: 0, max: last, value: last});
  range.setAttribute("aria-label", figure.querySelector("strong").textContent);
  controls.append(button, range);
  says.before(controls);
  let timer = 0;
  const name = () => { button.textContent = timer ? "Pause" : less.matches ? "Step" : "Play"; };
  const show = i => {
    range.value = i;
    says.textContent = draw(i);
    range.setAttribute("aria-valuetext", says.textContent);
  };
  const stop = () => { clearInterval(timer); timer = 0; name(); };
  const next = () => {
    show(+range.value >= last ? 0 : +range.value + 1);
    if (+range.value >= last) stop();
  };
  range.addEventListener("input", () => { stop(); show(+range.value); });
  button.addEventListener("click", () => {
    if (timer) return stop();
    next();
    if (!less.matches) timer = setInterval(next, +figure.dataset.pace);
    name();
  });
  less.addEventListener("change", stop);
  name();
}
