// How pictures of one shape fill a stage: as large as they fit, in as many columns as that takes.

export interface Fit {
  columns: number;
  width: number;
}

/** Columns and the width of each picture, in pixels. `below` is the height of what stands below each; `most` the widest
 * that a picture may be. */
export function fit(
  count: number,
  ratio: number,
  stage: { width: number; height: number },
  { gap, below, most }: { gap: number; below: number; most: number },
): Fit {
  let best: Fit = { columns: 1, width: 0 };
  for (let columns = 1; columns <= count; columns += 1) {
    const rows = Math.ceil(count / columns);
    const wide = (stage.width - gap * (columns - 1)) / columns;
    const high = ((stage.height - gap * (rows - 1)) / rows - below) * ratio;
    const width = Math.floor(Math.min(wide, high, most));
    // Of two that are equal the fuller rows look calmer.
    const isFuller = count % columns === 0 && count % best.columns !== 0;
    if (width > best.width || (width === best.width && isFuller)) best = { columns, width };
  }
  return { ...best, width: Math.max(best.width, 48) };
}
