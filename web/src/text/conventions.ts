// Conventions and tiles in other languages than that of the API, whose schema describes them in English. What is not here,
// as a field that is new, is shown as the schema has it.

import { language, type Language } from "./index.svelte";

interface Words {
  title: string;
  description: string;
  /** What each value means. */
  means?: Record<string, string>;
}

const GERMAN: Record<string, Words> = {
  initial_noise: {
    title: "Anfangsrauschen",
    description: "Wie stark das Rauschen am Anfang ist.",
    means: {
      sigma: "n * sigma_0 (k-diffusion)",
      variance:
        "n * sqrt(1 + sigma_0^2), die Varianz, die das Training bei einem Signal der Varianz 1 sieht (DDIM, SDXL, das meiste von diffusers); was am Ende an Rauschen bleibt, wird ebenso zurückgerechnet",
      comfyui: "wie „variance“, wenn der Lauf oben in der Rauschtabelle beginnt, sonst wie „sigma“",
    },
  },
  timestep_spacing: {
    title: "Verteilung der Zeitschritte",
    description: "Die Zeitschritte, aus denen die Sigmas eines Laufs berechnet werden.",
    means: {
      schedule: "nur nach dem Zeitplan",
      leading: "„leading“ von diffusers",
      linspace: "„linspace“ von diffusers",
      trailing: "„trailing“ von diffusers",
      a1111:
        "die Zeitschritte von A1111 für DDIM, PLMS und UniPC; mit dessen CFG-Skala für DDIM CFG++ (1/12,5 der eingestellten)",
    },
  },
  round_timesteps: {
    title: "Ganze Zeitschritte",
    description: "Rundet die Zeitschritte, die das Netz bekommt, auf ganze Zahlen.",
  },
  discard_penultimate_sigma: {
    title: "Vorletztes Sigma weglassen",
    description: "Plant einen Schritt mehr und lässt den letzten Rauschpegel über null weg.",
  },
  sigma_table: {
    title: "Rauschtabelle",
    description: "Wie genau die Tabelle der Rauschpegel gerechnet ist.",
    means: {
      exact: "float64",
      rounded: "float64, am Ende auf float32 gerundet (k-diffusion, A1111)",
      float32: "durchweg float32 (diffusers)",
    },
  },
  strength_rule: {
    title: "Regel der Stärke",
    description: "Welche Schritte „Bild zu Bild“ nimmt.",
    means: {
      share: "Schritte * Stärke, auf die nächste ganze Zahl gerundet",
      a1111: "ein Schritt mehr, und eine Stärke von höchstens 0,999",
      diffusers: "Schritte * Stärke, abgerundet; eine Maske mit Stärke 1 beginnt mit reinem Rauschen",
    },
  },
  vae_encode: {
    title: "VAE-Kodierung",
    description: "Welche Latents der VAE-Encoder für ein Ausgangsbild gibt.",
    means: {
      mean: "den Mittelwert seiner Verteilung",
      sample: "eine Stichprobe daraus, gezogen vor allem anderen Rauschen",
    },
  },
  mask_blend: {
    title: "Einpassen der Maske",
    description: "Wie beim Zeichnen erhalten bleibt, was außerhalb der Maske liegt.",
    means: {
      x0: "in jede Vorhersage zurückgelegt (A1111); die Maske wird verkleinert und gerundet",
      x: "vor jedem Aufruf außer dem ersten in die verrauschten Latents zurückgelegt (diffusers); die Maske wird auf das nächste Pixel verkleinert",
      differential:
        "wie „x“, aber mit Graustufen: Je heller eine Stelle, desto früher wird sie frei (Differential Diffusion)",
    },
  },
  paste_back: {
    title: "Zurückkopieren",
    description: "Kopiert das Ausgangsbild außerhalb der Maske Bit für Bit zurück.",
  },
  refiner_rule: {
    title: "Regel des Refiners",
    description: "Wovon refiner_switch_at ein Bruchteil ist.",
    means: {
      calls: "von den Aufrufen des Netzes (A1111)",
      timesteps: "von den Zeitschritten; der Sampler beginnt von Neuem (diffusers)",
    },
  },
  sde_noise: {
    title: "SDE-Rauschen",
    description: "Das Rauschen der SDE-Sampler.",
    means: {
      brownian: "ein Brownscher Pfad über Sigma, derselbe bei jeder Zahl von Schritten",
      independent: "unabhängige Züge (diffusers)",
      torchsde: "der Brownsche Baum von torchsde zwischen den Enden des Zeitplans (A1111, ComfyUI)",
    },
  },
  syntax: {
    title: "Syntax des Prompts",
    description: "Wie der Prompt gelesen wird.",
    means: {
      a1111: "(Gewichte:1.2), [Zeitpläne] und <lora:Namen>",
      comfyui: "Gewichte wie in ComfyUI",
      compel: "Gewichte, Mischungen und Verbindungen wie in Compel (InvokeAI)",
      plain: "keine Syntax, jedes Zeichen ist Text",
    },
  },
  emphasis: {
    title: "Betonung",
    description: "Wie Gewichte im Prompt wirken.",
    means: {
      original: "multiplizieren die Texteinbettungen und stellen dann ihren Mittelwert wieder her (A1111)",
      no_norm: "multiplizieren die Texteinbettungen",
      ignore: "gar nicht",
      comfyui: "rücken die Texteinbettungen vom leeren Prompt weg (ComfyUI)",
      compel: "mischen mit dem Prompt ohne die gewichteten Wörter (Compel)",
    },
  },
  chunks: {
    title: "Lange Prompts",
    description: "Was mit einem Prompt geschieht, der länger ist, als der Text-Encoder liest.",
    means: { all: "er wird in Teilen gelesen", first: "er wird abgeschnitten" },
  },
  prompt_timing: {
    title: "Zeitpunkt der Wechsel",
    description: "Wann ein Wechsel im Prompt eintritt.",
    means: {
      steps:
        "[a:b:5] nimmt a für die ersten 5 Schritte des ganzen Zeitplans, von denen „Bild zu Bild“ einige auslässt",
      a1111: "einen Schritt später, gezählt ab dem Beginn des Laufs",
    },
  },
  lora_mode: {
    title: "Art der LoRA",
    description: "Wie eine LoRA auf das UNet wirkt.",
    means: {
      run: "wird zur Ausgabe jeder Schicht addiert",
      merged:
        "wird für jedes Bild in die Gewichte gerechnet und auf deren Datentyp gerundet; bei knappem Speicher wie „run“",
    },
  },
  uneven_chunks: {
    title: "Ungleich lange Prompts",
    description: "Was geschieht, wenn Prompt und negativer Prompt verschieden viele Teile haben.",
    means: {
      padded: "der kürzere wird mit leeren Teilen aufgefüllt, und ein Aufruf nimmt beide",
      apart: "jeder bekommt einen eigenen Aufruf",
    },
  },
  control_rule: {
    title: "Regel von ControlNet",
    description:
      "Wie ControlNet seine Art und seinen letzten Schritt versteht und wie es Vorlagen anderer Form einpasst.",
    means: {
      a1111:
        "Ausgabe i von 13 zählt 0,825 ** (12 - i); es wirkt, solange der Anteil der getanen Schritte zwischen Anfang und Ende liegt; Vorlagen werden beschnitten",
      diffusers:
        "Ausgaben zählen von 0,1 bis 1 in gleichen Verhältnissen (Guess Mode); ein Schritt muss vor dem Ende fertig sein; Vorlagen werden gestreckt",
    },
  },
  empty_negative: {
    title: "Leerer negativer Prompt",
    description: "Was SDXL statt eines negativen Prompts bekommt.",
    means: { as_trained: "Nullen", encoded: "die Kodierung eines leeren Textes" },
  },
  clip_skip_everywhere: {
    title: "CLIP-Skip überall",
    description:
      "Wie diffusers: CLIP-Skip auch für SD 2 und SDXL, auch ohne negativen Prompt (der eigene ist eins kleiner).",
  },
  levels: {
    title: "Stufen",
    description: "Wie Pixelwerte auf 256 Stufen gerundet werden.",
    means: { round: "auf die nächste Stufe", truncate: "abwärts, also eine halbe Stufe dunkler" },
  },
  ensd: {
    title: "Seed-Versatz des Eta-Rauschens",
    description:
      "Wird zum Seed für alles Rauschen außer dem ersten addiert (ENSD); die Bilder von NovelAI brauchen 31337.",
  },
  size: {
    title: "Kachelgröße",
    description: "Zeichnet ein großes Bild in überlappenden Kacheln dieser Größe.",
  },
  overlap: { title: "Überlappung", description: "Wie viele Pixel benachbarte Kacheln gemeinsam haben." },
};

const OTHERS: Partial<Record<Language, Record<string, Words>>> = { de: GERMAN };

/** The words of a field in the language that is chosen; what they lack is the schema's own. */
export function wordsOf(name: string, own: Words): Words {
  const found = OTHERS[language.code]?.[name];
  return found ? { ...found, means: { ...own.means, ...found.means } } : own;
}
