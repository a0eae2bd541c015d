import type { TurnResult } from './contest.ts'
import type { ContestantName } from './contestant.ts'
import { spread } from './statistics.ts'
import { ratio, values, verdicts, type Verdict } from './verdict.ts'

/** Shown beside the metric of the turn, where they were measured. */
const COLUMNS: readonly [key: string, title: string][] = [
  ['readsPerEvent', 'reads/ev'],
  ['bytesPerEvent', 'B/ev'],
  ['rssMiB', 'RSS MiB'],
  ['delayP99Ms', 'delay p99'],
  ['eventsPerSecond', 'events/s']
]

/** One turn as a table. */
export function table(result: TurnResult): string {
  const { metric, caveat } = result.turn
  const bases = result.turn.base === undefined ? (['res.write', 'socket', 'reply.send'] as const) : [result.turn.base]
  const against = bases.filter((name) => result.samples.has(name))
  const columns = COLUMNS.filter(([key]) =>
    [...result.samples.values()].some((rounds) => rounds[0]?.[key] !== undefined)
  )
  const extra = otherMetrics(result)
  const head = [
    result.name,
    metric.unit,
    'min',
    'max',
    ...against.map((name) => `× ${name}`),
    ...extra,
    ...columns.map(([, title]) => title)
  ]
  const rows = [...result.samples.keys()].map((contestant) => {
    if (result.failures.has(contestant)) return [contestant, `failed: ${result.failures.get(contestant)}`]
    const { median, min, max } = spread(values(result, contestant, metric.key))
    return [
      contestant,
      short(median),
      short(min),
      short(max),
      ...against.map((name) => short(ratio(result, contestant, name)?.median)),
      ...extra.map((key) => median3(result, contestant, key)),
      ...columns.map(([key]) => median3(result, contestant, key))
    ]
  })
  const notes = [...verdicts(result).map(describe), ...(caveat === undefined ? [] : [`  (${caveat})`])]
  return [align([head, ...rows]), ...notes].join('\n')
}

export function describe({ goal, reached, isMet }: Verdict): string {
  return `  ${isMet ? 'met   ' : 'MISSED'}  ${goal}: ${short(reached)}`
}

/** What the turn measured besides the usual. */
function otherMetrics(result: TurnResult): string[] {
  const usual = new Set([result.turn.metric.key, ...COLUMNS.map(([key]) => key)])
  const keys = [...result.samples.values()].flatMap((rounds) => Object.keys(rounds[0] ?? {}))
  return [...new Set(keys)].filter((key) => !usual.has(key))
}

function median3(result: TurnResult, contestant: ContestantName, key: string): string {
  const own = values(result, contestant, key)
  return own.length === 0 ? '' : short(spread(own).median)
}

function short(value: number | undefined): string {
  if (value === undefined || Number.isNaN(value)) return ''
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString('en-US').replaceAll(',', ' ')
  return value
    .toPrecision(3)
    .replace(/(\.\d*?)0+$/, '$1')
    .replace(/\.$/, '')
}

function align(rows: readonly (readonly string[])[]): string {
  const widths: number[] = []
  for (const row of rows) {
    // A failure's message is as long as it likes.
    if (row.length > 2) row.forEach((cell, column) => (widths[column] = Math.max(widths[column] ?? 0, cell.length)))
  }
  return rows
    .map((row) =>
      row
        .map((cell, column) => (column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0)))
        .join('  ')
    )
    .join('\n')
}
