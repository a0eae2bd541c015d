import type { Test } from 'tap'
import { sendSse, type SseClient, type SseEvent, type SseRequest } from './sse-client.ts'
import type { Plan, TcpProxy } from './tcp-proxy.ts'

/** What a client has that came back as often as it had to. */
export interface Whole {
  /** Everything that it was told, in order, over all its connections. */
  readonly events: SseEvent[]
  readonly data: string[]
  readonly gaps: SseEvent[]
  readonly connections: number
  /** Whether it was told that there is nothing more to come. */
  readonly hasEnd: boolean
  /** Whether a response ended cleanly before the client had everything. */
  readonly wasMisled: boolean
}

const MAX_CONNECTIONS = 50

/**
 * Follows a stream as an `EventSource` does: it comes back with the last id until it gets `stream-end`, or 204. Its
 * connections meet what `plans` say, one each; once those are used up nothing happens to them any more.
 */
export async function resumeUntilEnd(
  t: Test,
  proxy: TcpProxy,
  path: string,
  request: SseRequest,
  plans: Plan[]
): Promise<Whole> {
  const events: SseEvent[] = []
  let lastEventId: string | undefined = request.lastEventId
  let wasMisled = false
  let connections = 0
  for (; connections < MAX_CONNECTIONS; connections++) {
    const plan = plans[connections]
    proxy.plan = plan
    const client = sendSse(t, proxy.port, path, { ...request, lastEventId })
    const onStalled = (): void => void client.drop()
    if (plan?.fault === 'stall') proxy.once('stalled', onStalled)
    const end = await client.waitForEnd()
    proxy.removeListener('stalled', onStalled)
    await client.drop()
    events.push(...client.events)
    lastEventId = client.lastEventId
    const status = statusOf(client)
    if (status === 204) break
    const isOver = client.events.at(-1)?.event === 'stream-end'
    // A Node client takes a lost HTTP/2 connection for a clean end: there the terminal id alone tells the truth.
    if (end === 'end' && !isOver && status === 200 && request.protocol !== 'h2') wasMisled = true
    if (isOver) break
  }
  const userEvents = events.filter(({ event }) => !event?.startsWith('stream-'))
  return {
    events,
    data: userEvents.map(({ data }) => data),
    gaps: events.filter(({ event }) => event === 'stream-gap'),
    connections: connections + 1,
    hasEnd: connections < MAX_CONNECTIONS,
    wasMisled
  }
}

/** Works through `jobs`, one at a time per worker. */
export async function shareOut<Worker, Job>(
  workers: readonly Worker[],
  jobs: readonly Job[],
  work: (worker: Worker, job: Job) => Promise<void>
): Promise<void> {
  const queue = jobs.values()
  await Promise.all(
    workers.map(async (worker) => {
      for (const job of queue) await work(worker, job)
    })
  )
}

/** Status of its response; undefined where there was none. */
export function statusOf(client: SseClient): number | undefined {
  try {
    return client.status
  } catch {
    return undefined
  }
}
