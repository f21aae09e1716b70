// Where the cells of a fixed grid stand, in a list of any length: pure numbers, so that a list of 50,000 costs no more than
// one of 50.

export interface Grid {
  columns: number;
  /** Side of a cell, in pixels. */
  cell: number;
  /** From the top of a row to that of the next. */
  pitch: number;
  rows: number;
  /** Of the whole grid, in pixels. */
  height: number;
}

/** A grid of square cells, at least `smallest` wide where there is room for two. */
export function gridOf(width: number, count: number, smallest: number, gap: number): Grid {
  const columns = Math.max(Math.floor((width + gap) / (smallest + gap)), width > 240 ? 2 : 1);
  const cell = Math.max((width - gap * (columns - 1)) / columns, 1);
  const pitch = cell + gap;
  const rows = Math.ceil(count / columns);
  return { columns, cell, pitch, rows, height: Math.max(rows * pitch - gap, 0) };
}

/** The rows that are in view, with some more on both sides: first, and one after the last. */
export function rowsInView(grid: Grid, top: number, height: number, more = 2): [number, number] {
  const first = Math.floor(top / grid.pitch) - more;
  const last = Math.ceil((top + height) / grid.pitch) + more;
  return [Math.min(Math.max(first, 0), grid.rows), Math.min(Math.max(last, 0), grid.rows)];
}

/** Where a key leads from a place in the grid; null where it leads nowhere. */
export function moved(
  key: string,
  from: number,
  count: number,
  columns: number,
  page: number,
): number | null {
  const steps: Record<string, number> = {
    ArrowLeft: -1,
    ArrowRight: 1,
    ArrowUp: -columns,
    ArrowDown: columns,
    PageUp: -columns * page,
    PageDown: columns * page,
    Home: -count,
    End: count,
  };
  const step = steps[key];
  if (step === undefined || count === 0) return null;
  const to = from + step;
  if (key === "ArrowUp" && to < 0) return from; // the first row has nothing above
  if (key === "ArrowDown" && to >= count) {
    const isLastRow = Math.floor(from / columns) === Math.floor((count - 1) / columns);
    return isLastRow ? from : count - 1;
  }
  return Math.min(Math.max(to, 0), count - 1);
}

/** The places between two, both of them included, in order. */
export function between(a: number, b: number): number[] {
  const low = Math.min(a, b);
  return Array.from({ length: Math.abs(a - b) + 1 }, (_, index) => low + index);
}
