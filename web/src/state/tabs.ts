// Tabs of one browser tell one another what has changed on the server, so that all show the same.

type Topic = "jobs" | "gallery" | "models" | "canvas";

const channel = "BroadcastChannel" in window ? new BroadcastChannel("gesso") : null;
const ears = new Map<Topic, Set<() => void>>();

channel?.addEventListener("message", (event: MessageEvent<unknown>) => {
  ears.get(event.data as Topic)?.forEach((hear) => hear());
});

/** Tell the other tabs that something has changed. */
export function changed(topic: Topic): void {
  channel?.postMessage(topic);
}

/** Tell this tab, as when the server says that something has changed. */
export function heard(topic: Topic): void {
  ears.get(topic)?.forEach((hear) => hear());
}

/** Be told when another tab, another program or another machine has changed something. Returns a function that ends it. */
export function onChanged(topic: Topic, hear: () => void): () => void {
  const all = ears.get(topic) ?? new Set();
  all.add(hear);
  ears.set(topic, all);
  return () => all.delete(hear);
}
