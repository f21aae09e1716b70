// Addresses for <img>: the API's own, or, where a key is needed, which <img> cannot send, bytes fetched with it.

import { address, bytes } from "./index";
import { keyOf } from "./key.svelte";

export interface Source {
  readonly url: string | null;
}

interface Kept {
  url: Promise<string>;
  isThere: boolean;
  /** How many show it, or wait for it. */
  users: number;
  stop: AbortController;
}

const kept = new Map<string, Kept>(); // the newest stands last
const MOST = 400; // object addresses that are kept

/** The source of a picture for <img>: call it in a component's script, and use `.url`, which is null until it is there.
 * Without a key it is there at once. What nobody waits for any more is fetched no further. */
export function source(path: () => string | null): Source {
  let url = $state<string | null>(null);
  $effect.pre(() => {
    const wanted = path();
    if (wanted === null) {
      url = null;
    } else if (!keyOf() || !wanted.startsWith("/")) {
      url = wanted.startsWith("/") ? address(wanted) : wanted;
    } else {
      let current = true;
      url = null;
      const one = object(wanted);
      one.users += 1;
      void one.url.then(
        (found) => {
          if (current) url = found;
        },
        () => undefined,
      );
      return () => {
        current = false;
        one.users -= 1;
        if (one.users > 0 || one.isThere) return;
        forget(wanted, one);
        one.stop.abort();
      };
    }
    return undefined;
  });
  return {
    get url() {
      return url;
    },
  };
}

function object(path: string): Kept {
  let found = kept.get(path);
  if (found === undefined) {
    const stop = new AbortController();
    const url = bytes(path, { signal: stop.signal }).then((blob) => URL.createObjectURL(blob));
    const made: Kept = { url, isThere: false, users: 0, stop };
    url.then(
      () => (made.isThere = true),
      () => forget(path, made),
    );
    found = made;
  }
  kept.delete(path);
  kept.set(path, found);
  for (const [old, one] of kept) {
    if (kept.size <= MOST) break;
    if (one === found || one.users > 0) continue;
    kept.delete(old);
    void one.url.then((url) => URL.revokeObjectURL(url)).catch(() => undefined);
  }
  return found;
}

function forget(path: string, one: Kept): void {
  if (kept.get(path) === one) kept.delete(path);
}
