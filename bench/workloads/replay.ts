/**
 * replay: what does a reconnect to a finished stream cost, and what does it block?
 *
 * Answers are asked for one after the other on a few connections. 1.00 is one `reply.send(buffer)` of the same bytes.
 * Memory is measured with clients that ask for everything and read nothing.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { ContestantName } from '../harness/contestant.ts'
import { Load } from '../harness/load.ts'
import { ServerProcess } from '../harness/server-process.ts'
import { MARK } from '../harness/source.ts'
import { closeStage, type Stage } from '../harness/stage.ts'
import { Transcript } from '../harness/transcript.ts'
import {
  scene,
  type Effort,
  type Goal,
  type Metric,
  type Sample,
  type Scene,
  type Turn,
  type Workload
} from '../harness/workload.ts'

const CONTESTANTS: readonly ContestantName[] = ['reply.send', 'res.write', '@fastify/sse', 'ours']
const EVENT_BYTES = 120
const CLIENTS = 4
const SILENT_CLIENTS = 100
const CPU_PER_ANSWER: Metric = { key: 'cpu', unit: 'µs/answer' }
const BLOCKED: Metric = { key: 'delayMaxMs', unit: 'ms' }
const HELD: Metric = { key: 'heldKiB', unit: 'KiB/client' }

type Part = 'all' | 'half' | 'last'

interface ReplayStage extends Stage {
  /** The ids of all events, as this contestant writes them. */
  readonly ids: readonly string[]
}

export const replay: Workload = {
  name: 'replay',
  question: 'reconnecting to a finished stream',
  scenes: (effort) =>
    (effort.isQuick ? [100, 10_000] : [100, 1_000, 10_000, 100_000]).flatMap((events) => [
      partScene(events, effort),
      ...(events < 10_000 ? [] : [silentScene(events)])
    ])
}

function partScene(events: number, effort: Effort): Scene<never> {
  return scene<ReplayStage>({
    name: `${events} events`,
    contestants: CONTESTANTS,
    turns: (['all', 'half', 'last'] as const).map((part) => partTurn(part, events, effort)),
    async open(contestant) {
      const server = await ServerProcess.start({ contestant, history: { events, bytes: EVENT_BYTES } })
      return { server, load: await Load.open(server.port, CLIENTS), ids: await idsOf(server.port, events) }
    },
    close: closeStage
  })
}

function partTurn(part: Part, events: number, effort: Effort): Turn<ReplayStage> {
  const expected = part === 'all' ? events : part === 'half' ? events / 2 : 1
  const answers = Math.ceil(Math.min(3_000, Math.max(32, 4_000_000 / expected)) / (effort.isQuick ? 4 : 1))
  return {
    name: `${part}-${events}`,
    metric: CPU_PER_ANSWER,
    goals: goalsOf(part, events),
    run: (stage) => measure(stage, stage.ids.at(-expected - 1), answers, expected, part === 'all')
  }
}

function goalsOf(part: Part, events: number): Goal[] {
  const isClaimed = part === 'last' || (part === 'all' && events !== 1_000)
  return [
    ...(isClaimed ? [{ against: 'reply.send', atMost: 1.5 } as const] : []),
    { metric: BLOCKED, atMost: 20, isBestRound: true }
  ]
}

async function measure(
  { server, load }: ReplayStage,
  cursor: string | undefined,
  answers: number,
  expected: number,
  isAll: boolean
): Promise<Sample> {
  const request = { path: '/history', lastEventId: isAll ? undefined : cursor }
  load.begin()
  let asked = 0
  load.onEnd = (client) => {
    if (asked++ < answers) load.ask(client, request)
  }
  await server.begin(1)
  for (let client = 0; client < load.clients && asked < answers; client++, asked++) {
    await load.ensure(client)
    load.ask(client, request)
  }
  await load.ended(answers)
  load.onEnd = undefined
  const { cpu, rssBytes, delayMaxMs } = await server.end()
  if (load.events !== answers * expected) throw new Error(`${load.events} of ${answers * expected} events`)
  return { cpu: cpu / answers, delayMaxMs, readsPerAnswer: load.reads / answers, rssMiB: rssBytes / 2 ** 20 }
}

/** Reads the whole stream once, like a client that will come back. */
async function idsOf(port: number, events: number): Promise<string[]> {
  const load = await Load.open(port, 1)
  const transcript = new Transcript()
  load.begin()
  load.record(transcript)
  await load.request({ path: '/history' })
  await load.ended(1)
  load.close()
  const blocks = transcript
    .decode()
    .split('\n\n')
    .filter((block) => block.includes(MARK))
  const ids = blocks.flatMap((block) => /^id: (\S+)$/m.exec(block)?.[1] ?? [])
  if (ids.length !== events) throw new Error(`${ids.length} ids of ${events} events`)
  return ids
}

function silentScene(events: number): Scene<never> {
  return scene<Stage>({
    name: `${events} events, clients that do not read`,
    contestants: CONTESTANTS,
    rounds: 1,
    isFresh: true,
    turns: [{ name: `silent-${events}`, metric: HELD, goals: [{ metric: HELD, atMost: 128 }], run: measureSilent }],
    async open(contestant) {
      const server = await ServerProcess.start({ contestant, history: { events, bytes: EVENT_BYTES } })
      return { server, load: await Load.open(server.port, SILENT_CLIENTS) }
    },
    close: closeStage
  })
}

async function measureSilent({ server, load }: Stage): Promise<Sample> {
  const before = await server.held()
  for (let client = 0; client < load.clients; client++) {
    load.ask(client, { path: '/history' })
    load.pause(client)
  }
  // Nothing tells when a server has given up writing; ten times what it takes.
  await sleep(2_000)
  const after = await server.held()
  const bytes = after.heapBytes + after.externalBytes - before.heapBytes - before.externalBytes
  return {
    heldKiB: bytes / 1024 / load.clients,
    rssGrowthKiB: (after.rssBytes - before.rssBytes) / 1024 / load.clients
  }
}
