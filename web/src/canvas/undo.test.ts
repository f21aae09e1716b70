import { expect, test } from "vitest";
import { ellipse, feather, newMask, rectangle, stroke, strokeBounds, type Brush } from "./mask";
import { History, pack, TILE, Touched, unpack } from "./undo";

/** Typed arrays are compared by hand: `toEqual` takes seconds for them. */
const same = (a: Uint8Array, b?: Uint8Array): boolean => b !== undefined && Buffer.compare(a, b) === 0;

function random(seed: number): () => number {
  let state = seed;
  return () => (state = (state * 1103515245 + 12345) % 2147483648) / 2147483648;
}

test("tiles are packed without loss, and small where they are plain", () => {
  const next = random(1);
  const noisy = Uint8Array.from({ length: 4096 }, () => Math.floor(next() * 256));
  const plain = new Uint8Array(4096).fill(255);
  const half = new Uint8Array(4096).fill(255, 2000);
  for (const tile of [noisy, plain, half]) expect(same(unpack(pack(tile), 4096), tile)).toBe(true);
  expect(pack(plain)).toBe(255);
  const packed = pack(half);
  expect(typeof packed === "object" && "runs" in packed && packed.runs.length).toBeLessThan(50);
  expect(pack(noisy)).toBeInstanceOf(Uint8Array);
});

test("many strokes are undone and redone exactly, one by one", () => {
  const next = random(7);
  const mask = newMask(300, 200);
  const history = new History();
  const states = [mask.data.slice()];
  for (let i = 0; i < 60; i++) {
    const brush: Brush = { size: 1 + next() * 60, hardness: next(), level: 255 };
    const mode = next() < 0.6 ? "add" : "remove";
    const touched = new Touched(mask);
    let from = { x: next() * 300, y: next() * 200 };
    for (let piece = 0; piece < 4; piece++) {
      const to = { x: from.x + next() * 60 - 30, y: from.y + next() * 60 - 30 };
      touched.touch(strokeBounds(from, to, brush));
      stroke(mask, from, to, brush, mode);
      from = to;
    }
    const change = touched.done();
    if (change === null) continue;
    states.push(mask.data.slice());
    history.add({ label: `${i}`, undo: () => change.swap(), redo: () => change.swap(), size: change.size });
  }
  expect(history.length).toBeGreaterThan(40);
  for (let i = states.length - 2; i >= 0; i--) {
    history.undo();
    expect(same(mask.data, states[i])).toBe(true);
  }
  expect(history.undo()).toBeNull();
  for (let i = 1; i < states.length; i++) {
    history.redo();
    expect(same(mask.data, states[i])).toBe(true);
  }
  expect(history.redo()).toBeNull();
});

test("only tiles that changed are kept", () => {
  const mask = newMask(2048, 2048);
  const touched = new Touched(mask);
  touched.touch({ x: 0, y: 0, w: 2048, h: 2048 });
  rectangle(mask, { x: 10, y: 10, w: 20, h: 20 }, "add");
  const change = touched.done();
  expect(change?.size).toBeLessThan(100);
  expect(change?.swap()).toEqual({ x: 0, y: 0, w: TILE, h: TILE });
});

test("what changes nothing is no step", () => {
  const mask = newMask(100, 100);
  const touched = new Touched(mask);
  touched.touch({ x: 0, y: 0, w: 100, h: 100 });
  rectangle(mask, { x: 5, y: 5, w: 5, h: 5 }, "remove");
  expect(touched.done()).toBeNull();
});

test("a thousand strokes at 2048 pixels keep a few megabytes", () => {
  const next = random(3);
  const mask = newMask(2048, 2048);
  let size = 0;
  for (let i = 0; i < 1000; i++) {
    const brush: Brush = { size: 60, hardness: 1, level: 255 };
    const from = { x: next() * 2048, y: next() * 2048 };
    const to = { x: from.x + next() * 200 - 100, y: from.y + next() * 200 - 100 };
    const touched = new Touched(mask);
    touched.touch(strokeBounds(from, to, brush));
    stroke(mask, from, to, brush, i % 3 === 0 ? "remove" : "add");
    size += touched.done()?.size ?? 0;
  }
  expect(size).toBeLessThan(32 * 2 ** 20);
});

test("something new forgets what was undone", () => {
  let changes = 0;
  const history = new History(() => changes++);
  const done: string[] = [];
  const step = (label: string) => {
    done.push(label);
    history.add({ label, undo: () => done.pop(), redo: () => done.push(label) });
  };
  step("a");
  step("b");
  history.undo();
  expect(history.nextUndo).toBe("a");
  expect(history.nextRedo).toBe("b");
  step("c");
  expect(done).toEqual(["a", "c"]);
  expect(history.nextRedo).toBeNull();
  expect(changes).toBe(4);
});

test("a soft mask is undone, too", () => {
  const mask = newMask(130, 130);
  ellipse(mask, { x: 20, y: 20, w: 60, h: 60 }, "add");
  const before = mask.data.slice();
  const touched = new Touched(mask);
  touched.touch({ x: 0, y: 0, w: 130, h: 130 });
  feather(mask, 12);
  touched.done()?.swap();
  expect(same(mask.data, before)).toBe(true);
});
