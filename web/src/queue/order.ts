// The order of jobs that wait. The server draws those of higher priority first, and older ones first among equals; so to
// move a job, some priorities change.

export interface Place {
  id: string;
  priority: number;
  /** RFC 3339 */
  created_at: string;
}

const HIGHEST = 10;
const LOWEST = -10;

/** New priorities, by id, that bring a job from one place to another; only those that change. Empty where the 21
 * priorities do not suffice. */
export function moved(list: readonly Place[], from: number, to: number): Map<string, number> {
  const order = [...list];
  const [one] = order.splice(from, 1);
  if (one === undefined || to < 0 || to >= list.length) return new Map();
  order.splice(to, 0, one);
  const wanted = order.map((each) => each.priority);
  for (let at = order.length - 2; at >= 0; at -= 1) {
    const own = order[at] as Place;
    const next = order[at + 1] as Place;
    const isOlder =
      own.created_at < next.created_at || (own.created_at === next.created_at && own.id < next.id);
    // What stood above only to be above what has left it may stay there: nothing is lowered without need.
    const least = (wanted[at + 1] as number) + (isOlder ? 0 : 1);
    wanted[at] = at === to ? least : Math.max(wanted[at] as number, least);
  }
  const over = Math.max(Math.max(...wanted) - HIGHEST, 0);
  if (Math.min(...wanted) - over < LOWEST) return new Map();
  return new Map(
    order
      .map((each, at) => [each, (wanted[at] as number) - over] as const)
      .filter(([each, priority]) => each.priority !== priority)
      .map(([each, priority]) => [each.id, priority]),
  );
}
