import { PEERS, type ContestantName } from './contestant.ts'
import type { TurnResult } from './contest.ts'
import { spread, type Spread } from './statistics.ts'
import type { Goal } from './workload.ts'

/** A goal beside what was reached. */
export interface Verdict {
  readonly turn: string
  readonly goal: string
  readonly reached: number
  readonly isMet: boolean
}

/** The contestant's value over another's, within each round. */
export function ratio(
  result: TurnResult,
  contestant: ContestantName,
  against: ContestantName | 'best peer',
  key: string = result.turn.metric.key
): Spread | undefined {
  const own = values(result, contestant, key)
  const others = against === 'best peer' ? bestPeer(result, key) : values(result, against, key)
  const rounds = Math.min(own.length, others.length)
  if (rounds === 0) return undefined
  return spread(
    Array.from({ length: rounds }, (_, round) => (own[round] ?? Number.NaN) / (others[round] ?? Number.NaN))
  )
}

export function values(result: TurnResult, contestant: ContestantName, key: string): number[] {
  return (result.samples.get(contestant) ?? []).map((sample) => sample[key] ?? Number.NaN)
}

function bestPeer(result: TurnResult, key: string): number[] {
  const peers = PEERS.map((peer) => values(result, peer, key)).filter((rounds) => rounds.length > 0)
  const rounds = Math.min(...peers.map((peer) => peer.length))
  if (!Number.isFinite(rounds)) return []
  return Array.from({ length: rounds }, (_, round) => Math.min(...peers.map((peer) => peer[round] ?? Number.NaN)))
}

/** Whether our plugin reaches what it must. A goal without both sides measured has no verdict. */
export function verdicts(result: TurnResult): Verdict[] {
  return (result.turn.goals ?? []).flatMap((goal) => {
    const reached = reachedOf(result, goal)
    if (reached === undefined || Number.isNaN(reached)) return []
    const isMet = reached <= (goal.atMost ?? Infinity) && reached >= (goal.atLeast ?? -Infinity)
    return [{ turn: result.name, goal: describeGoal(result, goal), reached, isMet }]
  })
}

function reachedOf(result: TurnResult, goal: Goal): number | undefined {
  const key = (goal.metric ?? result.turn.metric).key
  const contestant = goal.of ?? 'ours'
  if (goal.against !== undefined) return ratio(result, contestant, goal.against, key)?.median
  const own = values(result, contestant, key)
  if (own.length === 0) return undefined
  return goal.isBestRound === true ? spread(own).min : spread(own).median
}

function describeGoal(result: TurnResult, { metric, of, against, atMost, atLeast }: Goal): string {
  const { key, unit } = metric ?? result.turn.metric
  const name = of === undefined ? key : `${of}: ${key}`
  const limit = atMost === undefined ? `≥ ${atLeast}` : `≤ ${atMost}`
  return against === undefined ? `${name} ${limit} ${unit}` : `${name} ${limit} × ${against}`
}
