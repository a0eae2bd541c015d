/**
 * slow: what does a client that stops reading do to the process, and to a client that reads?
 *
 * Two clients of one flat-out stream; the second one reads its head and then nothing. The healthy one's rate is
 * compared with the rate it has alone.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { ContestantName } from '../harness/contestant.ts'
import { Load } from '../harness/load.ts'
import { ServerProcess } from '../harness/server-process.ts'
import type { Plan } from '../harness/source.ts'
import { scene, type Effort, type Metric, type Sample, type Workload } from '../harness/workload.ts'

const EVENT_BYTES = 4_096
/** Whoever waits for the slow client never gets through. */
const AT_MOST_MS = 15_000
/** `bufferBytes` and 1 MiB. */
const HELD_LIMIT_MIB = 8 + 1
const HELD: Metric = { key: 'heldMiB', unit: 'MiB' }

export const slow: Workload = {
  name: 'slow',
  question: 'a client that stops reading, beside one that reads',
  scenes: (effort) => [
    scene<ContestantName>({
      name: 'stopped',
      contestants: ['res.write', 'res.write ignored', 'ours'],
      rounds: effort.isQuick ? 1 : 3,
      isFresh: true,
      turns: [
        {
          name: 'stopped',
          metric: HELD,
          goals: [
            { atMost: HELD_LIMIT_MIB },
            { metric: { key: 'peakRssMiB', unit: 'MiB' }, atMost: 64 },
            { metric: { key: 'healthyShare', unit: 'of its rate alone' }, atLeast: 0.9 }
          ],
          run: (contestant) => compare(contestant, effort)
        }
      ],
      open: async (contestant) => contestant,
      close: async () => {}
    })
  ]
}

async function compare(contestant: ContestantName, effort: Effort): Promise<Sample> {
  const bytes = effort.isQuick ? 2 ** 28 : 2 ** 30
  const plan: Plan = { bytes: EVENT_BYTES, events: bytes / EVENT_BYTES, perTick: Infinity, intervalMs: 1 }
  const alone = await measure(contestant, plan, 1)
  const beside = await measure(contestant, plan, 2)
  return {
    heldMiB: beside.heldMiB,
    peakRssMiB: beside.peakRssMiB,
    peakAloneMiB: alone.peakRssMiB,
    healthyMiBps: beside.mibPerSecond,
    aloneMiBps: alone.mibPerSecond,
    healthyShare: beside.mibPerSecond / alone.mibPerSecond
  }
}

/** Client 0 reads, client 1, if any, does not. */
async function measure(
  contestant: ContestantName,
  plan: Plan,
  clients: number
): Promise<{ heldMiB: number; peakRssMiB: number; mibPerSecond: number }> {
  const server = await ServerProcess.start({ contestant, clients })
  const load = await Load.open(server.port, clients)
  try {
    await load.request({ path: '/feed' })
    await server.waiting(1)
    // The first MiBs warm up code and sockets; both runs have them.
    await server.run({ ...plan, events: 2_000 })
    await load.received(2_000)
    load.begin()
    for (let client = 1; client < clients; client++) load.pause(client)
    const before = await server.held()
    const startedAt = performance.now()
    const deadline = new AbortController()
    await server.run(plan)
    const total = sleep(AT_MOST_MS, undefined, { signal: deadline.signal }).catch(() => {})
    await Promise.race([load.receivedBy(0, plan.events), total])
    const seconds = (performance.now() - startedAt) / 1000
    deadline.abort()
    const { peakRssBytes } = await server.end()
    const after = await server.held()
    return {
      heldMiB: (after.heapBytes + after.externalBytes - before.heapBytes - before.externalBytes) / 2 ** 20,
      peakRssMiB: (peakRssBytes - before.rssBytes) / 2 ** 20,
      mibPerSecond: (load.eventsOf(0) * plan.bytes) / 2 ** 20 / seconds
    }
  } finally {
    load.close()
    await server.stop()
  }
}
