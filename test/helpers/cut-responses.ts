import type { Test } from 'tap'
import { eventually } from './eventually.ts'
import { createRandom, SEED } from './random.ts'
import { resumeUntilEnd, shareOut } from './resume-until-end.ts'
import { startApp, type App } from './start-app.ts'
import { FAULTS, TcpProxy, type Fault, type Plan } from './tcp-proxy.ts'

type Protocol = 'http/1.1' | 'h2'

const WORKERS = 12

const small = ['one', '', 'two lines\nof text', '€ and 😀']
const large = Array.from({ length: 400 }, (_, index) => `${index}:${'x'.repeat(1 + ((index * 977) % 2_500))}`)

interface Stage {
  readonly app: App
  readonly proxies: TcpProxy[]
  /** How often the handler of each stream was called. */
  readonly runs: Map<string, number>
}

/** `/small/:id` and `/large/:id`: a stream each, which its first request starts. */
async function startStage(t: Test, protocol: Protocol): Promise<Stage> {
  const runs = new Map<string, number>()
  const start = (id: string, events: string[]) =>
    async function* () {
      runs.set(id, (runs.get(id) ?? 0) + 1)
      for (const event of events) {
        await null
        yield event
      }
    }
  const app = await startApp(
    t,
    (fastify) => {
      fastify.get<{ Params: { id: string } }>('/small/:id', ({ params: { id } }, reply) =>
        reply.sseFromGenerator(start(id, small), { streamId: id })
      )
      fastify.get<{ Params: { id: string } }>('/large/:id', ({ params: { id } }, reply) =>
        reply.sseFromGenerator(start(id, large), { streamId: id })
      )
    },
    { http2: protocol === 'h2', plugin: { maxActiveStreams: 10_000 } }
  )
  const proxies = await Promise.all(Array.from({ length: WORKERS }, () => TcpProxy.start(t, app.port)))
  return { app, proxies, runs }
}

async function lengthOf(t: Test, { proxies }: Stage, path: string, protocol: Protocol): Promise<number> {
  const [proxy] = proxies as [TcpProxy]
  await resumeUntilEnd(t, proxy, path, { protocol }, [])
  return proxy.responseBytes
}

interface Job {
  readonly id: string
  readonly plans: Plan[]
}

async function check(
  t: Test,
  stage: Stage,
  jobs: readonly Job[],
  kind: 'small' | 'large',
  protocol: Protocol
): Promise<void> {
  const wanted = kind === 'small' ? small : large
  const wrong: string[] = []
  await shareOut(stage.proxies, jobs, async (proxy, { id, plans }) => {
    const whole = await resumeUntilEnd(t, proxy, `/${kind}/${id}`, { protocol }, plans)
    const complaints = [
      JSON.stringify(whole.data) === JSON.stringify(wanted) ? [] : [`got ${whole.data.length} events`],
      whole.hasEnd ? [] : ['never got to the end'],
      whole.gaps.length === 0 ? [] : [`was told of a gap: ${whole.gaps[0]?.data}`],
      whole.wasMisled ? ['was told of a clean end too early'] : [],
      whole.events.at(-1)?.data === '{"outcome":"completed"}' ? [] : [`ended with ${whole.events.at(-1)?.data}`],
      stage.runs.get(id) === 1 ? [] : [`the handler ran ${stage.runs.get(id)} times`]
    ].flat()
    if (complaints.length > 0) wrong.push(`${JSON.stringify(plans)}: ${complaints.join(', ')}`)
  })
  t.strictSame(wrong, [])
  const { sseStreams } = stage.app.fastify
  await eventually('all clients are gone', () => sseStreams.stats().clients === 0)
  const { started, running, finished } = sseStreams.stats()
  t.strictSame({ running, finished }, { running: 0, finished: started })
}

/** After every byte of a small response, a stream of its own for each. */
export async function checkEveryByte(t: Test, protocol: Protocol, fault: Fault): Promise<void> {
  const stage = await startStage(t, protocol)
  const length = await lengthOf(t, stage, '/small/measure', protocol)
  t.ok(length > 400, `a response of ${length} bytes`)
  const jobs = Array.from({ length: length + 1 }, (_, after) => ({
    id: `${fault}-${after}`,
    plans: [{ direction: 'response', after, fault } as const]
  }))
  await check(t, stage, jobs, 'small', protocol)
}

/** Several faults in a row, somewhere in large responses. */
export async function checkSample(t: Test, protocol: Protocol): Promise<void> {
  const random = createRandom(SEED)
  t.comment(`SEED=${SEED}`)
  const stage = await startStage(t, protocol)
  const length = await lengthOf(t, stage, '/large/measure', protocol)
  const jobs = Array.from({ length: 80 }, (_, job) => ({
    id: `large-${job}`,
    plans: Array.from({ length: 1 + random.below(4) }, () => ({
      direction: 'response' as const,
      // Half of them early: among the frames of the head and of what comes first.
      after: random.below(random.below(2) === 0 ? 2_000 : length),
      fault: random.pick(FAULTS)
    }))
  }))
  await check(t, stage, jobs, 'large', protocol)
}
