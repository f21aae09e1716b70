// Words of the common parts.

import { catalogue } from "./index.svelte";

export const parts = catalogue(
  {
    about: (what: string) => `About ${what}`,
    backTo: (what: string) => `Back to ${what}`,
    cancel: "Cancel",
    close: "Close",
    copied: "Copied",
    copy: "Copy",
    copyReport: "Copy as text",
    dismiss: "Got it",
    isSet: "Something is set here",
    tryAgain: "Try again",
    times: (count: number) => `${count} times`,
  },
  {
    about: (what) => `Über ${what}`,
    backTo: (what) => `Zurück auf ${what}`,
    cancel: "Abbrechen",
    close: "Schließen",
    copied: "Kopiert",
    copy: "Kopieren",
    copyReport: "Als Text kopieren",
    dismiss: "Verstanden",
    isSet: "Hier ist etwas eingestellt",
    tryAgain: "Noch einmal versuchen",
    times: (count) => `${count}-mal`,
  },
);
