import type { ContestantName } from './contestant.ts'

/** What one turn of one contestant measured, by metric. */
export type Sample = Readonly<Record<string, number>>

/** How long and how often to measure. */
export interface Effort {
  readonly isQuick: boolean
  /** Rounds of every contestant that are not counted, and those that are. */
  readonly warmUps: number
  readonly rounds: number
}

/** One row of the tables: a name, what is measured, what it must reach. */
export interface Turn<Stage = unknown> {
  /** Unique within the workload; the command line filters by it. */
  readonly name: string
  /** The metric of the table, and how to print it. */
  readonly metric: Metric
  readonly goals?: readonly Goal[]
  /** Whose value the table and the picture take as 1; without it `res.write`, where it takes part. */
  readonly base?: ContestantName
  /** Why the ratio must not be claimed, where it is noise. */
  readonly caveat?: string
  run(stage: Stage): Promise<Sample>
}

export interface Metric {
  readonly key: string
  readonly unit: string
}

/** What our plugin must reach in this turn. */
export interface Goal {
  /** Absent: the turn's own metric. */
  readonly metric?: Metric
  /** Whose goal it is; absent: ours. */
  readonly of?: ContestantName
  /** A contestant, the best of the peers in the same round, or nothing: an absolute number. */
  readonly against?: ContestantName | 'best peer'
  readonly atMost?: number
  readonly atLeast?: number
  /** What happens in every round is the contestant's own; what happens in some, such as a preemption, is the machine's. */
  readonly isBestRound?: boolean
}

/** Turns that share servers and connections. */
export interface Scene<Stage = unknown> {
  readonly name: string
  readonly contestants: readonly ContestantName[]
  readonly turns: readonly Turn<Stage>[]
  /** Memory is no question of rounds: one is enough. */
  readonly rounds?: number
  /** A new stage for every sample: what is measured is what a fresh process holds. */
  readonly isFresh?: boolean
  open(contestant: ContestantName): Promise<Stage>
  close(stage: Stage): Promise<void>
}

/** One file in `workloads/`: one question. */
export interface Workload {
  readonly name: string
  readonly question: string
  /** What this machine lacks, in a sentence; undefined where the workload can run. */
  missing?(): string | undefined
  scenes(effort: Effort): Scene<never>[]
}

/** Types a scene for the list of all. */
export function scene<Stage>(it: Scene<Stage>): Scene<never> {
  return it as unknown as Scene<never>
}

export const CPU_PER_EVENT: Metric = { key: 'cpu', unit: 'µs/event' }
