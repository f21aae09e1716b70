/** The jobs of a batch, laid out as a sheet: columns, rows and pages by the values of its axes. */

/** What a sheet has to know of a job. */
export interface SheetJob {
  readonly id: string;
  readonly status: string;
  readonly created_at: string;
  readonly metadata: Readonly<Record<string, unknown>>;
  readonly outputs: readonly { readonly id: string; readonly width: number; readonly height: number }[];
}

/** One axis as it was drawn.  label: of the setting, as typed  values: in the order in which they were asked for */
export interface Axis {
  readonly label: string;
  readonly values: readonly string[];
}

/** axes  at most three are laid out; further ones count as pages, joined by commas */
export interface Sheet<Job extends SheetJob = SheetJob> {
  readonly x: Axis;
  readonly y: Axis;
  readonly z: Axis;
  readonly size: number;
  readonly done: number;
  readonly failed: number;
  at(x: number, y: number, z: number): Job | undefined;
}

const NONE: Axis = { label: "", values: [""] };

/** The values of a job on the axes of its batch; {} where it has none. */
export function placeOf(job: SheetJob): Record<string, string> {
  const axes = job.metadata["axes"];
  if (typeof axes !== "object" || axes === null || Array.isArray(axes)) return {};
  return Object.fromEntries(Object.entries(axes).map(([label, value]) => [label, String(value)]));
}

/** Lay out jobs, which come newest first, as the server lists them. A retried job replaces the one before it. */
export function sheetOf<Job extends SheetJob>(newestFirst: readonly Job[]): Sheet<Job> {
  const jobs = [...newestFirst].reverse();
  const values = new Map<string, string[]>();
  for (const job of jobs)
    for (const [label, value] of Object.entries(placeOf(job))) {
      const seen = values.get(label) ?? [];
      if (!seen.includes(value)) seen.push(value);
      values.set(label, seen);
    }
  const axes = inOrder([...values.keys()], jobs).map((label): Axis => ({
    label,
    values: values.get(label) ?? [],
  }));
  const [x = NONE, y = NONE, ...more] = axes;
  const key = (job: Job): string => {
    const place = placeOf(job);
    return JSON.stringify([place[x.label] ?? "", place[y.label] ?? "", pageOf(place, more)]);
  };
  const cells = new Map<string, Job>();
  const pages: string[] = [];
  for (const job of jobs) {
    cells.set(key(job), job);
    const page = pageOf(placeOf(job), more);
    if (!pages.includes(page)) pages.push(page);
  }
  const z: Axis = more.length ? { label: more.map((axis) => axis.label).join(", "), values: pages } : NONE;
  const last = [...cells.values()];
  return {
    x,
    y,
    z,
    size: x.values.length * y.values.length * z.values.length,
    done: last.filter((job) => job.status === "succeeded").length,
    failed: last.filter((job) => ["failed", "canceled", "expired"].includes(job.status)).length,
    at: (column, row, page) =>
      cells.get(JSON.stringify([x.values[column] ?? "", y.values[row] ?? "", z.values[page] ?? ""])),
  };
}

/** Labels as whoever made the sheet noted them in `metadata.order`: the server gives them by the alphabet. */
function inOrder(labels: readonly string[], jobs: readonly SheetJob[]): string[] {
  const noted = jobs[0]?.metadata["order"];
  const order = Array.isArray(noted) ? noted.map(String).filter((label) => labels.includes(label)) : [];
  return [...new Set([...order, ...labels])];
}

function pageOf(place: Record<string, string>, axes: readonly Axis[]): string {
  return axes.map((axis) => place[axis.label] ?? "").join(", ");
}

// ---- a picture of the sheet ------------------------------------------------------------------------------------------

/** Where things stand on the picture of a page, in pixels. */
export interface Plan {
  readonly width: number;
  readonly height: number;
  readonly cell: { readonly width: number; readonly height: number };
  readonly left: number;
  readonly top: number;
  readonly gap: number;
}

export const GAP = 8;
const MOST = 16_000; // pixels a side: browsers make no larger canvas

/** The layout of a page whose pictures have this size; they are drawn smaller where a browser could not hold all. */
export function planOf(sheet: Sheet, width: number, height: number, left = 120, top = 56): Plan {
  const [columns, rows] = [sheet.x.values.length, sheet.y.values.length];
  const fit = Math.min(
    1,
    (MOST - left - GAP * (columns + 1)) / (columns * width),
    (MOST - top - GAP * (rows + 1)) / (rows * height),
  );
  const cell = { width: Math.max(1, Math.floor(width * fit)), height: Math.max(1, Math.floor(height * fit)) };
  return {
    width: left + columns * (cell.width + GAP) + GAP,
    height: top + rows * (cell.height + GAP) + GAP,
    cell,
    left,
    top,
    gap: GAP,
  };
}
