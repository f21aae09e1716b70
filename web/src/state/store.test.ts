import { afterEach, beforeEach, expect, test, vi } from "vitest";

type Module = typeof import("./store");
let store: Module;

beforeEach(async () => {
  vi.resetModules();
  store = await import("./store");
});
afterEach(() => {
  vi.restoreAllMocks();
  localStorage.clear();
  sessionStorage.clear();
});

test("what is written is there, for the machine and for the tab apart", () => {
  store.keep("a", "1");
  store.keep("a", "2", "tab");
  expect([store.kept("a"), store.kept("a", "tab"), store.kept("b")]).toEqual(["1", "2", null]);
  store.keep("a", null);
  expect([store.kept("a"), store.kept("a", "tab")]).toEqual([null, "2"]);
  expect(localStorage.length).toBe(0);
});

test("where the storage is full, it is held until the page is closed, and told once", () => {
  const told = vi.fn();
  store.onLost(told);
  const full = vi.spyOn(window, "localStorage", "get").mockReturnValue({
    getItem: () => "0",
    setItem: () => {
      throw new DOMException("full", "QuotaExceededError");
    },
  } as unknown as Storage);
  store.keep("a", "1");
  store.keep("a", "2");
  expect(store.kept("a")).toBe("2");
  expect(told).toHaveBeenCalledTimes(1);
  full.mockRestore();
  store.keep("a", "3"); // there is room again
  expect([store.kept("a"), localStorage.getItem("a")]).toEqual(["3", "3"]);
});

test("where to ask for the storage throws, nothing else does", () => {
  vi.spyOn(window, "localStorage", "get").mockImplementation(() => {
    throw new DOMException("switched off", "SecurityError");
  });
  const told = vi.fn();
  store.keep("a", "1");
  store.onLost(told); // who asks later is told as well
  expect(store.kept("a")).toBe("1");
  expect(told).toHaveBeenCalledTimes(1);
});

test("JSON of another version is as nothing", () => {
  localStorage.setItem("a", "no JSON");
  expect(store.keptJson("a", [])).toEqual([]);
  localStorage.setItem("a", "null");
  expect(store.keptJson("a", [])).toEqual([]);
  localStorage.setItem("a", '{"b": 1}');
  expect(store.keptJson("a", [])).toEqual({ b: 1 });
});
