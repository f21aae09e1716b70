// A sentence for each sampler and schedule. What is not here, as from a plug-in, is shown without one.

import { catalogue } from "./index.svelte";

const SAMPLERS_EN: Record<string, string> = {
  euler: "The plainest. Steady at any number of steps; a good first choice for many models.",
  euler_ancestral: "Adds fresh noise at each step: lively pictures that keep changing with more steps.",
  heun: "Looks twice at each step: twice the time, more exact with few steps.",
  ddim: "An old standby. The same seed stays close to itself when the steps change.",
  ddim_cfgpp: "DDIM for guidance between 0 and 1: less burnt colours.",
  ddpm: "The original, with noise at each step. Wants many steps.",
  dpmpp_2s_ancestral: "Two looks a step and fresh noise: rich detail, twice the time.",
  dpmpp_2m: "Exact and quick: good pictures from some 20 steps. The usual choice.",
  dpmpp_sde: "Two looks a step along a path of noise: fine detail with few steps, twice the time.",
  dpmpp_2m_sde: "As DPM++ 2M with noise mixed in: more texture, some 25 steps.",
  dpmpp_2m_sde_heun: "As DPM++ 2M SDE, a little softer at the end.",
  dpmpp_3m_sde: "Smooth and detailed with 30 steps or more; lower the guidance a little.",
  lms: "An old multistep method. Quick, but can leave blotches with few steps.",
  dpm_2: "Two looks a step, without noise: exact, twice the time.",
  dpm_2_ancestral: "Two looks a step and fresh noise: lively, twice the time.",
  dpm_fast: "Makes its own steps. Quick sketches; a trace of noise stays.",
  dpm_adaptive: "Chooses its steps by its own error, however many you ask for. Slow and thorough.",
  plms: "An old multistep method of the first releases.",
  pndm: "The default of early diffusers; its first steps cost more.",
  ipndm: "Steady multistep method, good with 10 to 20 steps.",
  deis: "Exact with few steps: try 10 to 15.",
  unipc: "Good pictures from 10 steps. The quickest of the exact ones.",
  unipc_bh2: "UniPC with another weighting, for guided pictures with few steps.",
  lcm: "Only for models or LoRA made for it: 4 to 8 steps at guidance 1 to 2.",
  tcd: "Only for models or LoRA made for it: 4 to 8 steps, sharper than LCM.",
  restart: "Goes back and forth over the middle steps: careful detail, more time.",
  er_sde: "A newer method with noise: fine detail from 20 steps.",
  sa_solver: "Multistep with some noise in the middle: steady and detailed.",
};
const SAMPLERS_DE: Record<string, string> = {
  euler: "Das schlichteste. Zuverlässig bei jeder Zahl von Schritten, für viele Modelle die erste Wahl.",
  euler_ancestral:
    "Mischt in jedem Schritt frisches Rauschen zu: lebendig, ändert sich mit mehr Schritten weiter.",
  heun: "Schaut bei jedem Schritt zweimal: doppelte Zeit, genauer bei wenigen Schritten.",
  ddim: "Ein alter Bekannter. Derselbe Seed bleibt sich ähnlich, wenn sich die Schritte ändern.",
  ddim_cfgpp: "DDIM für eine Führung zwischen 0 und 1: weniger verbrannte Farben.",
  ddpm: "Das ursprüngliche, mit Rauschen in jedem Schritt. Will viele Schritte.",
  dpmpp_2s_ancestral: "Zwei Blicke je Schritt und frisches Rauschen: viele Einzelheiten, doppelte Zeit.",
  dpmpp_2m: "Genau und schnell: gute Bilder ab etwa 20 Schritten. Die übliche Wahl.",
  dpmpp_sde:
    "Zwei Blicke je Schritt entlang eines Rauschpfads: feine Einzelheiten bei wenigen Schritten, doppelte Zeit.",
  dpmpp_2m_sde: "Wie DPM++ 2M mit Rauschen: mehr Struktur, etwa 25 Schritte.",
  dpmpp_2m_sde_heun: "Wie DPM++ 2M SDE, am Ende etwas weicher.",
  dpmpp_3m_sde: "Glatt und reich ab 30 Schritten; die Führung etwas senken.",
  lms: "Ein altes Mehrschrittverfahren. Schnell, kann bei wenigen Schritten Flecken lassen.",
  dpm_2: "Zwei Blicke je Schritt, ohne Rauschen: genau, doppelte Zeit.",
  dpm_2_ancestral: "Zwei Blicke je Schritt und frisches Rauschen: lebendig, doppelte Zeit.",
  dpm_fast: "Macht seine eigenen Schritte. Schnelle Skizzen; eine Spur Rauschen bleibt.",
  dpm_adaptive:
    "Wählt seine Schritte nach dem eigenen Fehler, gleich wie viele verlangt sind. Langsam und gründlich.",
  plms: "Ein altes Mehrschrittverfahren der ersten Ausgaben.",
  pndm: "Der Standard früher diffusers; die ersten Schritte kosten mehr.",
  ipndm: "Ruhiges Mehrschrittverfahren, gut mit 10 bis 20 Schritten.",
  deis: "Genau mit wenigen Schritten: 10 bis 15 versuchen.",
  unipc: "Gute Bilder ab 10 Schritten. Das schnellste unter den genauen.",
  unipc_bh2: "UniPC mit anderer Gewichtung, für geführte Bilder mit wenigen Schritten.",
  lcm: "Nur für Modelle oder LoRA, die dafür gemacht sind: 4 bis 8 Schritte, Führung 1 bis 2.",
  tcd: "Nur für Modelle oder LoRA, die dafür gemacht sind: 4 bis 8 Schritte, schärfer als LCM.",
  restart: "Geht über die mittleren Schritte hin und her: sorgfältig, mehr Zeit.",
  er_sde: "Ein neueres Verfahren mit Rauschen: feine Einzelheiten ab 20 Schritten.",
  sa_solver: "Mehrschrittverfahren mit etwas Rauschen in der Mitte: ruhig und reich.",
};
const SCHEDULES_EN: Record<string, string> = {
  uniform: "Steps evenly spread over the noise that the model learned.",
  karras: "More steps where detail appears. Suits most models with 15 to 30 steps.",
  exponential: "Still more steps at the end: clean surfaces.",
  polyexponential: "Between exponential and a curve of your own.",
  sgm_uniform: "Even steps that begin at full noise: what models of few steps expect.",
  simple: "Even steps, picked from the model's own list. ComfyUI's usual choice.",
  ddim_uniform: "Even steps as DDIM counts them.",
  beta: "More steps at both ends: shape and detail, fewer between.",
  beta_comfyui: "Beta as ComfyUI rounds it.",
  linear_quadratic: "Slow at first, then faster: for few steps.",
  kl_optimal: "Spaced by how much a step changes. Good with few steps.",
  kl_optimal_comfyui: "KL optimal as ComfyUI has it.",
  align_your_steps: "Measured best steps for Stable Diffusion 1.5; good with 10.",
  align_your_steps_sdxl: "Measured best steps for SDXL; good with 10.",
  align_your_steps_comfyui: "Align your steps as ComfyUI has it.",
  align_your_steps_sdxl_comfyui: "Align your steps for SDXL as ComfyUI has it.",
  turbo: "For turbo models: 1 to 4 steps.",
};
const SCHEDULES_DE: Record<string, string> = {
  uniform: "Schritte gleichmäßig über das Rauschen verteilt, das das Modell gelernt hat.",
  karras: "Mehr Schritte, wo Einzelheiten entstehen. Passt zu den meisten Modellen mit 15 bis 30 Schritten.",
  exponential: "Noch mehr Schritte am Ende: saubere Flächen.",
  polyexponential: "Zwischen exponentiell und einer eigenen Kurve.",
  sgm_uniform: "Gleiche Schritte ab vollem Rauschen: was Modelle mit wenigen Schritten erwarten.",
  simple: "Gleiche Schritte aus der Liste des Modells. Die übliche Wahl von ComfyUI.",
  ddim_uniform: "Gleiche Schritte, wie DDIM sie zählt.",
  beta: "Mehr Schritte an beiden Enden: Form und Einzelheiten, dazwischen weniger.",
  beta_comfyui: "Beta, wie ComfyUI rundet.",
  linear_quadratic: "Erst langsam, dann schneller: für wenige Schritte.",
  kl_optimal: "Verteilt danach, wie viel ein Schritt ändert. Gut mit wenigen Schritten.",
  kl_optimal_comfyui: "KL optimal, wie ComfyUI es hat.",
  align_your_steps: "Gemessene beste Schritte für Stable Diffusion 1.5; gut mit 10.",
  align_your_steps_sdxl: "Gemessene beste Schritte für SDXL; gut mit 10.",
  align_your_steps_comfyui: "Align your steps, wie ComfyUI es hat.",
  align_your_steps_sdxl_comfyui: "Align your steps für SDXL, wie ComfyUI es hat.",
  turbo: "Für Turbo-Modelle: 1 bis 4 Schritte.",
};

const about = catalogue(
  {
    sampler: (name: string): string => SAMPLERS_EN[name] ?? "",
    schedule: (name: string): string => SCHEDULES_EN[name] ?? "",
  },
  {
    sampler: (name: string): string => SAMPLERS_DE[name] ?? SAMPLERS_EN[name] ?? "",
    schedule: (name: string): string => SCHEDULES_DE[name] ?? SCHEDULES_EN[name] ?? "",
  },
);

/** One sentence about a sampler, "" for one that is not known here. */
export const aboutSampler = (name: string): string => about.sampler(name);
/** One sentence about a schedule, "" for one that is not known here. */
export const aboutSchedule = (name: string): string => about.schedule(name);
