// What is wrong with the page for somebody who cannot see it, cannot use a mouse, or
// has a small screen. One line for each finding; see Tab.Inspect.
(() => {
  const findings = [];
  const name = (e) => {
    const id = e.id ? "#" + e.id : "";
    const text = (e.getAttribute("name") ?? e.textContent).trim().replace(/\s+/g, " ").slice(0, 30);
    return `<${e.localName}${id}> "${text}"`;
  };
  const visible = (e) => e.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  const all = (selector) => [...document.querySelectorAll(selector)].filter(visible);

  // The page as a whole.
  if (!document.documentElement.lang) findings.push("the page names no language");
  if (!document.title.trim()) findings.push("the page has no title");
  for (const selector of ["h1", "main"]) {
    const n = all(selector).length;
    if (n !== 1) findings.push(`the page has ${n} <${selector}>`);
  }
  let level = 0;
  for (const h of all("h1, h2, h3, h4, h5, h6")) {
    const own = Number(h.localName[1]);
    if (own > level + 1) findings.push(`${name(h)} leaves a level of headings out`);
    level = own;
  }
  if (!document.querySelector('meta[name="viewport"]')) findings.push("the page is laid out for no phone");

  // Controls.
  const ids = new Set();
  for (const e of document.querySelectorAll("[id]")) {
    if (ids.has(e.id)) findings.push(`there are two ${name(e)}`);
    ids.add(e.id);
  }
  for (const e of all("input, select, textarea")) {
    if (![...e.labels].some((l) => visible(l) && l.innerText.trim())) findings.push(`${name(e)} has no label`);
  }
  for (const e of all("fieldset")) if (!e.querySelector("legend")?.innerText.trim()) findings.push(`${name(e)} has no legend`);
  for (const attribute of ["for", "aria-describedby", "aria-labelledby"]) {
    for (const e of document.querySelectorAll(`[${attribute}]`)) {
      for (const id of e.getAttribute(attribute).split(/\s+/)) {
        if (!ids.has(id)) findings.push(`${name(e)}: ${attribute} names nothing that is there`);
      }
    }
  }
  for (const e of all("img")) if (!e.hasAttribute("alt")) findings.push(`${name(e)} has no alt`);
  for (const e of document.querySelectorAll('[tabindex]')) {
    if (e.tabIndex > 0) findings.push(`${name(e)} changes the order of the Tab key`);
  }
  // WCAG 2.2, 2.5.8, of which links in a text are exempt.
  for (const e of all("button, summary, a.button, input:not([type=checkbox])")) {
    const box = e.getBoundingClientRect();
    if (box.width < 24 || box.height < 24) findings.push(`${name(e)} is too small for a finger`);
  }

  // What sticks out. A pixel may be lost to rounding.
  const wide = document.documentElement.clientWidth + 1;
  if (document.documentElement.scrollWidth > wide) findings.push(`the page is ${document.documentElement.scrollWidth} wide, the window ${wide - 1}`);
  for (const e of all("main *, footer *")) {
    const box = e.getBoundingClientRect();
    if (box.width && (box.right > wide || box.left < -1)) findings.push(`${name(e)} sticks out of the window`);
    if (e.scrollWidth > e.clientWidth + 1 && e.clientWidth && getComputedStyle(e).display !== "inline" && e.localName !== "input") {
      findings.push(`${name(e)} is wider than its place`);
    }
  }

  // Contrast (WCAG 2.2, 1.4.3 and 1.4.11).
  const parse = (color) => {
    const n = color.match(/[\d.]+/g).map(Number);
    return { rgb: n.slice(0, 3), alpha: n.length > 3 ? n[3] : 1 };
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => {
    const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  };
  const background = (e) => {
    for (; e; e = e.parentElement) {
      const { rgb, alpha } = parse(getComputedStyle(e).backgroundColor);
      if (alpha === 1) return rgb;
      if (alpha !== 0) findings.push(`${name(e)} has a background that is half transparent, whose contrast is not known`);
    }
    return [255, 255, 255];
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = texts.nextNode());) {
    const e = node.parentElement;
    if (!node.data.trim() || !visible(e) || e.closest("script, style")) continue;
    const style = getComputedStyle(e);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const got = ratio(parse(style.color).rgb, background(e));
    if (got < (large ? 3 : 4.5)) findings.push(`${name(e)} has the contrast ${got.toFixed(2)}`);
    if (size < 12) findings.push(`${name(e)} is written in ${size} pixels`);
  }
  for (const e of all('input[type="text"], input[type="password"]')) {
    const got = ratio(parse(getComputedStyle(e).borderTopColor).rgb, background(e.parentElement));
    if (got < 3) findings.push(`the edge of ${name(e)} has the contrast ${got.toFixed(2)}`);
  }
  return findings;
})()
