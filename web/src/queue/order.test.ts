import { expect, test } from "vitest";
import { moved, type Place } from "./order";

const queue = (...priorities: number[]): Place[] =>
  priorities.map((priority, at) => ({ id: `job${at}`, priority, created_at: `2026-01-01T00:00:0${at}Z` }));

/** The order that the server gives. */
const ordered = (list: Place[]): Place[] =>
  [...list].sort((a, b) => b.priority - a.priority || a.created_at.localeCompare(b.created_at));

const after = (list: Place[], from: number, to: number): string[] => {
  const changes = moved(list, from, to);
  return ordered(list.map((one) => ({ ...one, priority: changes.get(one.id) ?? one.priority }))).map(
    (one) => one.id,
  );
};

test("a job goes exactly where it is sent, from everywhere to everywhere", () => {
  for (const list of [queue(0, 0, 0, 0, 0), ordered(queue(0, 3, 0, 5, -10, 10))]) {
    for (let from = 0; from < list.length; from += 1) {
      for (let to = 0; to < list.length; to += 1) {
        const wanted = list.map((one) => one.id);
        const [one] = wanted.splice(from, 1);
        wanted.splice(to, 0, one as string);
        expect(after(list, from, to), `${from} to ${to}`).toEqual(wanted);
      }
    }
  }
});

test("the way to the front changes one job", () => {
  expect(moved(queue(0, 0, 0, 0), 3, 0)).toEqual(new Map([["job3", 1]]));
});

test("priorities stay within the bounds of the server", () => {
  const changes = moved(queue(10, 10, 10), 2, 0);
  expect([...changes.values()].every((one) => one >= -10 && one <= 10)).toBe(true);
  expect(after(queue(10, 10, 10), 2, 0)).toEqual(["job2", "job0", "job1"]);
});
