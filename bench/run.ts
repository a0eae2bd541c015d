/**
 * The benchmark: `npm run bench -- [workload ...] [--quick] [--only text,text] [--contestants name,name] [--rounds n]
 * [--prof contestant]`.
 *
 * Server and load generator are separate processes; the number is the CPU time of the server per delivered event, and
 * what counts are ratios within a round, because the absolute ones mean nothing on a shared machine. Every round runs
 * every contestant once. A client that misses an event fails the contestant. Full runs are written to `results/`.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'
import { parseArgs } from 'node:util'
import { chart } from './harness/chart.ts'
import { contest, type Selection, type TurnResult } from './harness/contest.ts'
import { CONTESTANTS, type ContestantName } from './harness/contestant.ts'
import { describe, table } from './harness/report.ts'
import { spread } from './harness/statistics.ts'
import { ratio, values, verdicts, type Verdict } from './harness/verdict.ts'
import type { Effort, Workload } from './harness/workload.ts'
import { WORKLOADS } from './workloads/index.ts'

const BENCH = new URL('../', import.meta.url)
const RESULTS = new URL('results/', BENCH)

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string' },
    contestants: { type: 'string' },
    rounds: { type: 'string' },
    prof: { type: 'string' }
  }
})

const effort: Effort = {
  isQuick: options.quick,
  warmUps: options.quick ? 1 : 2,
  rounds: Number(options.rounds ?? (options.quick ? 3 : 5))
}
const only = options.only?.split(',')
const selection: Selection = {
  isSelected: (turn) => only?.some((text) => turn.includes(text)) ?? true,
  contestants: options.contestants?.split(',').map(contestantOf),
  profiled: options.prof === undefined ? undefined : contestantOf(options.prof),
  profileFile: (turn) => new URL(`${turn.replaceAll('/', '-')}.cpuprofile`, RESULTS).pathname
}
const isWhole = only === undefined && selection.contestants === undefined && selection.profiled === undefined

mkdirSync(RESULTS, { recursive: true })
const reached: Verdict[] = []
for (const workload of chosen()) {
  process.stdout.write(`\n## ${workload.name}: ${workload.question}\n`)
  const missing = workload.missing?.()
  if (missing !== undefined) {
    if (positionals.length > 0) fail(missing)
    process.stdout.write(`\nleft out: ${missing}\n`)
    continue
  }
  const results: TurnResult[] = []
  for (const scene of workload.scenes(effort)) {
    for (const result of await contest(workload.name, scene, effort, selection)) {
      results.push(result)
      process.stdout.write(`\n${table(result)}\n`)
      reached.push(...verdicts(result))
    }
  }
  if (isWhole) write(workload, results)
}
process.stdout.write(`
${summary(reached)}
`)

function chosen(): readonly Workload[] {
  if (positionals.length === 0) {
    return only === undefined
      ? WORKLOADS
      : WORKLOADS.filter(({ name }) => only.some((text) => text.startsWith(`${name}/`)))
  }
  return positionals.map((name) => {
    const workload = WORKLOADS.find((it) => it.name === name)
    if (workload === undefined)
      fail(`"${name}" is no workload; there are ${WORKLOADS.map((it) => it.name).join(', ')}.`)
    return workload
  })
}

function summary(all: readonly Verdict[]): string {
  const missed = all.filter(({ isMet }) => !isMet)
  const lines = missed.map((verdict) => `${verdict.turn}${describe(verdict)}`)
  return [`${all.length - missed.length} of ${all.length} goals met`, ...lines].join('\n')
}

function contestantOf(name: string): ContestantName {
  if (!Object.hasOwn(CONTESTANTS, name))
    fail(`"${name}" is no contestant; there are ${Object.keys(CONTESTANTS).join(', ')}.`)
  return name as ContestantName
}

function fail(message: string): never {
  process.stderr.write(`${message}\n`)
  process.exit(2)
}

function write(workload: Workload, results: readonly TurnResult[]): void {
  const name = options.quick ? `${workload.name}-quick` : workload.name
  const report = {
    workload: workload.name,
    question: workload.question,
    command: `npm run bench -- ${process.argv.slice(2).join(' ')}`.trim(),
    date: new Date().toISOString(),
    node: process.version,
    cpu: `${cpus().length} × ${cpus()[0]?.model ?? '?'}`,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    versions: versions(),
    turns: results.map(serialize)
  }
  writeFileSync(new URL(`${name}.json`, RESULTS), `${JSON.stringify(report, undefined, 2)}\n`)
  writeFileSync(new URL(`${name}.svg`, RESULTS), chart(`${workload.name}: ${workload.question}`, results))
}

function serialize(result: TurnResult): object {
  const { metric, caveat } = result.turn
  return {
    name: result.name,
    unit: metric.unit,
    caveat,
    contestants: [...result.samples].map(([name, samples]) => ({
      name,
      failure: result.failures.get(name),
      [metric.key]: samples.length === 0 ? undefined : spread(values(result, name, metric.key)),
      toResWrite: ratio(result, name, 'res.write'),
      toSocket: ratio(result, name, 'socket'),
      samples
    })),
    goals: verdicts(result)
  }
}

/** Of everything that took part. */
function versions(): Record<string, string> {
  const own = packageAt(new URL('../package.json', BENCH))
  const lock = packageAt(new URL('package-lock.json', BENCH)) as { packages?: Record<string, { version?: string }> }
  const names = Object.keys(packageAt(new URL('package.json', BENCH)).dependencies ?? {})
  const found = names.map((name) => [name, lock.packages?.[`node_modules/${name}`]?.version ?? '?'] as const)
  return { 'fastify-resumable-sse': own.version ?? '?', ...Object.fromEntries(found) }
}

function packageAt(url: URL): { version?: string; dependencies?: Record<string, string> } {
  return JSON.parse(readFileSync(url, 'utf8')) as { version?: string; dependencies?: Record<string, string> }
}
