// A grid as one file of its own: HTML with its pictures inside, without a script, so that it opens anywhere and stays.

import type { Sheet, SheetJob } from "./sheet";

interface Told<Job extends SheetJob> {
  title: string;
  facts: string;
  language: string;
  nameOf: (label: string) => string;
  /** The picture of a cell as data: URL; null where there is none. */
  pictureOf: (job: Job) => string | null;
  settingsOf: (job: Job) => string;
}

const SIGNS: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
export const escaped = (text: string): string => text.replace(/[&<>"']/g, (sign) => SIGNS[sign] ?? sign);

const STYLE = `:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}body{margin:2rem;background:light-dark(#f5f0e8,#1c1b19);color:light-dark(#24211c,#ece7dd)}
h1{font:italic 1.8rem/1.2 Georgia,serif;margin:0}p{color:light-dark(#5c564c,#b0a99c)}div{overflow-x:auto}table{border-spacing:.5rem}th{font-weight:600;text-align:start}
thead th{text-align:center}img{display:block;max-inline-size:20rem;border-radius:.35rem}pre{max-inline-size:20rem;overflow:auto;font-size:.75rem;white-space:pre-wrap}summary{font-size:.8rem}`;

export function pageFile<Job extends SheetJob>(sheet: Sheet<Job>, told: Told<Job>): string {
  const words = (label: string, value = ""): string => escaped(`${told.nameOf(label)} ${value}`.trim());
  const cell = (job: Job | undefined, name: string): string => {
    const picture = job && told.pictureOf(job);
    if (!job || !picture) return "<td></td>";
    return `<td><img src="${escaped(picture)}" alt="${escaped(told.title)}: ${name}" loading="lazy"><details><summary>JSON</summary><pre>${escaped(told.settingsOf(job))}</pre></details></td>`;
  };
  const table = (z: number): string => {
    const head = sheet.x.values
      .map((value) => `<th scope="col">${words(sheet.x.label, value)}</th>`)
      .join("");
    const rows = sheet.y.values.map((row, y) => {
      const cells = sheet.x.values.map((column, x) =>
        cell(
          sheet.at(x, y, z),
          [words(sheet.x.label, column), words(sheet.y.label, row)].filter(Boolean).join(", "),
        ),
      );
      return `<tr><th scope="row">${words(sheet.y.label, row)}</th>${cells.join("")}</tr>`;
    });
    const title = sheet.z.label ? `<h2>${words(sheet.z.label, sheet.z.values[z])}</h2>` : "";
    return `${title}<div><table><thead><tr><td></td>${head}</tr></thead><tbody>${rows.join("")}</tbody></table></div>`;
  };
  return `<!doctype html>
<html lang="${escaped(told.language)}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>${escaped(told.title)}</title><style>${STYLE}</style></head>
<body><h1>${escaped(told.title)}</h1><p>${escaped(told.facts)}</p>${sheet.z.values.map((_, z) => table(z)).join("")}</body></html>
`;
}
