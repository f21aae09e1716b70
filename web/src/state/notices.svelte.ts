// What the user has to be told. Errors stay until they are read; what went well goes by itself.

import { Problem } from "../api";

export interface Notice {
  id: number;
  kind: "error" | "info";
  title: string;
  /** What happened, in the server's words or ours. */
  detail: string;
  /** What can be done: a button. */
  action?: { label: string; run: () => void };
  /** For a report: everything that is known. */
  report: string;
  count: number;
}

let list = $state<Notice[]>([]);
let next = 1;

export const notices = {
  get list(): Notice[] {
    return list;
  },
  dismiss(id: number): void {
    list = list.filter((one) => one.id !== id);
  },
};

/** Tell an error. It stays until it is dismissed. `title` says what did not work: "The picture was not drawn". */
export function tellError(title: string, error: unknown, action?: Notice["action"]): void {
  const problem = Problem.from(error);
  const detail = problem.detail || problem.title;
  const same = list.find((one) => one.kind === "error" && one.title === title && one.detail === detail);
  if (same) {
    same.count += 1;
    return;
  }
  const report = [
    title,
    detail,
    `code: ${problem.code}`,
    problem.field ? `field: ${problem.field}` : "",
    problem.status ? `status: ${problem.status}` : "",
    problem.request ? `request: ${problem.request}` : "",
    `page: ${window.location.hash || "#/draw"}`,
    `browser: ${navigator.userAgent}`,
  ];
  add({
    kind: "error",
    title,
    detail,
    report: report.filter(Boolean).join("\n"),
    ...(action ? { action } : {}),
  });
}

/** Tell something that went well, for some seconds; longer with something to press, such as "Undo". */
export function tell(title: string, action?: Notice["action"], seconds = action ? 12 : 5): void {
  const id = add({ kind: "info", title, detail: "", report: title, ...(action ? { action } : {}) });
  setTimeout(() => notices.dismiss(id), seconds * 1000);
}

function add(made: Omit<Notice, "id" | "count">): number {
  const id = next++;
  list = [...list, { ...made, id, count: 1 }];
  return id;
}
