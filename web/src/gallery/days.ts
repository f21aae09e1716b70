// Days in a list of pictures, newest first: where each begins, and which names stand beside them.

export interface Day {
  /** As in 2026-11-30. */
  day: string;
  images: number;
}

export interface Mark {
  day: string;
  /** Place of its first picture in the list. */
  at: number;
}

export function marksOf(days: readonly Day[]): Mark[] {
  let at = 0;
  return days.map(({ day, images }) => {
    const mark = { day, at };
    at += images;
    return mark;
  });
}

/** The last mark at or before a place in the list; 0 where there is none. */
export function markAt(marks: readonly Mark[], place: number): number {
  let low = 0;
  let high = marks.length - 1;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if ((marks[middle]?.at ?? 0) <= place) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** The marks whose names can stand beside each other: the first of each month, or of each year where months are many,
 * no two closer than `least` as a share of the list. */
export function named(
  marks: readonly Mark[],
  total: number,
  least: number,
): { mark: Mark; isYear: boolean }[] {
  const months = marks.filter((one, index) => one.day.slice(0, 7) !== marks[index - 1]?.day.slice(0, 7));
  const isYear = months.length * least > 1;
  const firsts =
    months.length > 2
      ? months.filter((one, index) => !isYear || one.day.slice(0, 4) !== months[index - 1]?.day.slice(0, 4))
      : marks; // a list of some days names days
  const found: { mark: Mark; isYear: boolean }[] = [];
  for (const mark of firsts) {
    const before = found.at(-1)?.mark;
    if (!before || (mark.at - before.at) / total >= least) found.push({ mark, isYear });
  }
  return found;
}
