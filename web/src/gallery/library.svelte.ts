// What the views of the library share: the list that is shown, the boards, what is selected, and what is done to pictures.

import { api, bytes, data } from "../api";
import { tell, tellError } from "../state/notices.svelte";
import { changed } from "../state/tabs";
import { gallery as words } from "../text/gallery";
import { Pages, type Board, type LibraryPicture } from "./pages.svelte";

export const AT_ONCE = 1000; // pictures of one change
export const MOST_ZIPPED = 2000;
export const MOST_SELECTED = 5000;

let boards = $state.raw<Board[]>([]);
let inView = $state(0);
let selected = $state.raw<ReadonlySet<string>>(new Set());

export const library = {
  /** The list that is shown; it stays while a picture is looked at, so that the way back leads to the same place. */
  pages: new Pages(),
  /** Where the window was scrolled to when the list was left. */
  scroll: 0,
  /** The picture that had the focus, which has it again on the way back. */
  focused: 0,

  /** Place of the first picture in view. */
  get inView(): number {
    return inView;
  },
  set inView(place: number) {
    inView = place;
  },

  get boards(): Board[] {
    return boards;
  },
  async readBoards(): Promise<void> {
    boards = (await data(api.GET("/v1/boards"))).boards;
  },

  get selected(): ReadonlySet<string> {
    return selected;
  },
  select(ids: Iterable<string>): void {
    selected = new Set([...ids].slice(0, MOST_SELECTED));
  },
  toggle(id: string): void {
    const next = new Set(selected);
    if (!next.delete(id)) next.add(id);
    library.select(next);
  },
};

type Changes = Partial<{ starred: boolean; deleted: boolean; add_to: string; remove_from: string }>;

/** Change pictures, a thousand at a time. Throws `Problem`. */
export async function change(ids: Iterable<string>, changes: Changes): Promise<LibraryPicture[]> {
  const all = [...ids];
  const found: LibraryPicture[] = [];
  for (let start = 0; start < all.length; start += AT_ONCE) {
    const body = { images: all.slice(start, start + AT_ONCE), ...changes };
    found.push(...(await data(api.POST("/v1/images/changes", { body: body as never }))).images);
  }
  library.pages.update(found);
  changed("gallery");
  return found;
}

/** The same, with errors told. Returns whether it went well. */
export async function attempt(ids: Iterable<string>, changes: Changes): Promise<boolean> {
  try {
    await change(ids, changes);
    return true;
  } catch (error) {
    tellError(words.notChanged, error);
    return false;
  }
}

/** Delete pictures; what is told has the way back. `after`: what to do when they are gone, and when they are back. */
export async function remove(ids: Iterable<string>, after: () => void = () => undefined): Promise<boolean> {
  const all = [...ids];
  if (all.length === 0 || !(await attempt(all, { deleted: true }))) return false;
  after();
  tell(words.deletedCount(all.length), {
    label: words.undo,
    run: () =>
      void attempt(all, { deleted: false }).then((isBack) => {
        if (isBack) after();
      }),
  });
  return true;
}

/** Download pictures and their settings as a ZIP file. */
export async function zip(ids: Iterable<string>): Promise<void> {
  const images = [...ids].slice(0, MOST_ZIPPED);
  try {
    const body = JSON.stringify({ images });
    const headers = { "Content-Type": "application/json" };
    save(await bytes("/v1/images/archive", { method: "POST", body, headers }), words.zipName(images.length));
  } catch (error) {
    tellError(words.notZipped, error);
  }
}

/** Download one picture. */
export async function download(picture: LibraryPicture): Promise<void> {
  try {
    const blob = await bytes(picture.url);
    save(blob, `gesso-${picture.seed}-${picture.id.slice(-8)}.${blob.type.split("/")[1] ?? "png"}`);
  } catch (error) {
    tellError(words.notZipped, error);
  }
}

function save(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
