import { inWords } from "../text/codes";
import { shell } from "../text/shell";
import type { components } from "./schema";

type Detail = Partial<components["schemas"]["Problem"]>;

/** A refusal of the server (RFC 9457), or the lack of one: what went wrong, and where. */
export class Problem extends Error {
  readonly title: string;
  readonly detail: string;
  readonly code: string;
  readonly status: number;
  readonly field: string | null;
  readonly data: Record<string, unknown>;
  readonly request: string | null;

  constructor(detail: Detail, request: string | null = null) {
    super(detail.detail ?? detail.title ?? "");
    this.name = "Problem";
    this.title = detail.title ?? "";
    this.code = detail.code ?? "error";
    this.status = detail.status ?? 0;
    // Without a status it is the page that speaks, and in the user's language.
    this.detail = this.status ? inWords(detail.code, detail.detail ?? "") : (detail.detail ?? "");
    this.field = detail.field ?? null;
    this.data = detail.data ?? {};
    this.request = request;
  }

  /** No answer at all. */
  get isOffline(): boolean {
    return this.code === "offline";
  }

  static offline(): Problem {
    return new Problem({ code: "offline", status: 0, detail: shell.noAnswer });
  }

  static async of(response: Response): Promise<Problem> {
    const request = response.headers.get("x-request-id");
    try {
      const detail = (await response.json()) as Detail;
      return new Problem({ ...detail, status: response.status }, request);
    } catch {
      return new Problem({ status: response.status, title: response.statusText, code: "error" }, request);
    }
  }

  /** Whatever was thrown, as a problem. */
  static from(error: unknown): Problem {
    if (error instanceof Problem) return error;
    const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
    return new Problem({ code: "page", detail: text });
  }
}
