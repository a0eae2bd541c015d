import type { ContestantName } from './contestant.ts'
import type { ServerProcess } from './server-process.ts'
import type { Effort, Sample, Scene, Turn } from './workload.ts'

/** Which turns and contestants to run, and whom to profile. */
export interface Selection {
  isSelected(turn: string): boolean
  readonly contestants: readonly ContestantName[] | undefined
  readonly profiled: ContestantName | undefined
  profileFile(turn: string): string
}

/** All samples of one turn: round by round, so that ratios can be taken within a round. */
export interface TurnResult {
  readonly name: string
  readonly turn: Turn
  readonly samples: ReadonlyMap<ContestantName, readonly Sample[]>
  readonly failures: ReadonlyMap<ContestantName, string>
}

/** Runs a scene: every contestant once per round, A B C A B C …, so that a slow second of the machine hits all. */
export async function contest(
  workload: string,
  scene: Scene,
  effort: Effort,
  selection: Selection
): Promise<TurnResult[]> {
  const turns = scene.turns.filter((turn) => selection.isSelected(`${workload}/${turn.name}`))
  if (turns.length === 0) return []
  const contestants = scene.contestants.filter((name) => selection.contestants?.includes(name) ?? true)
  const stages = new Map<ContestantName, unknown>()
  const results: TurnResult[] = []
  try {
    if (scene.isFresh !== true) {
      await Promise.all(contestants.map(async (name) => stages.set(name, await scene.open(name))))
    }
    // Whoever failed once is in no state to be measured again.
    const failures = new Map<ContestantName, string>()
    for (const turn of turns) {
      const name = `${workload}/${turn.name}`
      results.push(await play(name, scene, turn, contestants, stages, failures, effort, selection))
    }
  } finally {
    for (const stage of stages.values()) await scene.close(stage)
  }
  return results
}

async function play(
  name: string,
  scene: Scene,
  turn: Turn,
  contestants: readonly ContestantName[],
  stages: ReadonlyMap<ContestantName, unknown>,
  failures: Map<ContestantName, string>,
  effort: Effort,
  selection: Selection
): Promise<TurnResult> {
  const samples = new Map<ContestantName, Sample[]>(contestants.map((contestant) => [contestant, []]))
  const warmUps = scene.rounds === undefined ? effort.warmUps : 0
  const rounds = scene.rounds ?? effort.rounds
  // The profile is a round of its own: being watched costs.
  const last = selection.profiled === undefined ? rounds : rounds + 1
  for (let round = -warmUps; round < last; round++) {
    for (const contestant of contestants) {
      const isProfiled = round === rounds
      if (failures.has(contestant) || (isProfiled && contestant !== selection.profiled)) continue
      progress(`${name}  round ${round + 1}/${rounds}  ${contestant}`)
      let stage = stages.get(contestant)
      try {
        stage ??= await scene.open(contestant)
        const sample = await (isProfiled ? profile(stage, turn, selection.profileFile(name)) : turn.run(stage))
        if (round >= 0 && !isProfiled) samples.get(contestant)?.push(sample)
      } catch (error) {
        // Shown in the table: a contestant that loses events has lost.
        failures.set(contestant, error instanceof Error ? error.message : String(error))
      } finally {
        if (stage !== undefined && !stages.has(contestant)) await scene.close(stage)
      }
    }
  }
  progress('')
  return { name, turn, samples, failures: new Map(failures) }
}

async function profile(stage: unknown, turn: Turn, file: string): Promise<Sample> {
  const { server } = stage as { readonly server: ServerProcess }
  await server.ask('beginProfile')
  const sample = await turn.run(stage)
  process.stderr.write(`${await server.ask<string>('endProfile', file)}\n`)
  return sample
}

/** One line that overwrites itself, for somebody who watches. */
function progress(line: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${line}`)
}
