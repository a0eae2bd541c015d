import { once } from 'node:events'
import type { Socket } from 'node:net'
import { fetchEventSource } from '@microsoft/fetch-event-source'
import { EventSource } from 'eventsource'
import { createEventSource } from 'eventsource-client'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { EventSource as UndiciEventSource } from 'undici'
import streamPlugin from '../../src/index.ts'
import { StepGate } from '../helpers/step-gate.ts'

// @microsoft/fetch-event-source is made for browsers; this is all of a browser that it touches.
Object.assign(globalThis, {
  window: globalThis,
  document: { hidden: false, addEventListener() {}, removeEventListener() {} }
})

interface Received {
  readonly event: string
  readonly data: string
}

/** Reads `url` and comes back by itself until the server says that it is over; yields what arrives. */
interface Client {
  readonly name: string
  /** Requests in the test below: clients that take a clean end for the end make no further one; the others get a 204. */
  readonly asksAgainAfterTheEnd: boolean
  /** Resolves when the client has stopped for good: it has no request and no timer left. */
  read(url: string, onEvent: (event: Received) => void, signal: AbortSignal): Promise<void>
}

/** The part of the EventSource interface that its implementations share. */
interface EventSourceLike {
  readonly readyState: number
  addEventListener(type: string, listener: (event: { type: string; data?: unknown }) => void): void
  close(): void
}

const CLOSED = 2
const eventTypes = ['message', 'token', 'stream-start', 'stream-gap', 'stream-error', 'stream-end']

function readEventSource(
  source: EventSourceLike,
  onEvent: (event: Received) => void,
  signal: AbortSignal
): Promise<void> {
  signal.addEventListener('abort', () => source.close())
  for (const type of eventTypes)
    source.addEventListener(type, ({ data }) => onEvent({ event: type, data: String(data) }))
  return new Promise((resolve) => {
    source.addEventListener('error', () => {
      if (source.readyState === CLOSED) resolve()
    })
  })
}

const clients: Client[] = [
  {
    name: 'eventsource',
    asksAgainAfterTheEnd: true,
    read: (url, onEvent, signal) => readEventSource(new EventSource(url), onEvent, signal)
  },
  {
    name: "undici's EventSource",
    asksAgainAfterTheEnd: true,
    read: (url, onEvent, signal) => readEventSource(new UndiciEventSource(url), onEvent, signal)
  },
  {
    name: 'eventsource-client',
    asksAgainAfterTheEnd: true,
    async read(url, onEvent, signal) {
      const client = createEventSource(url)
      signal.addEventListener('abort', () => client.close())
      for await (const { event = 'message', data } of client) onEvent({ event, data })
    }
  },
  {
    name: '@microsoft/fetch-event-source',
    asksAgainAfterTheEnd: false,
    async read(url, onEvent, signal) {
      await fetchEventSource(url, {
        signal,
        openWhenHidden: true,
        fetch,
        // It also reports blocks without data, which are no events.
        onmessage: ({ event, data }) => void (data !== '' && onEvent({ event: event || 'message', data }))
      })
    }
  }
]

for (const client of clients) {
  for (const streamId of ['named', undefined]) {
    const kind = streamId === undefined ? 'an unnamed stream' : 'a named stream'
    t.test(`${client.name} gets ${kind} exactly once over two cuts, and stops`, async (t) => {
      const server = await startServer(t, streamId)
      const reader = startReader(t, client, server.url)

      server.gate.release(5)
      await reader.has(5)
      await server.cut()
      server.gate.release(5) // nobody is attached now
      await reader.has(10)
      await server.cut()
      server.gate.release(10)
      await reader.stopped

      t.same(reader.tokens(), tokens(20), 'every token once, in order')
      t.same(
        reader.control(),
        ['stream-start', 'stream-end'],
        'the start is told once, the end is told once, and there is no gap'
      )
      t.equal(server.runs(), 1, 'one run')
      const statuses = client.asksAgainAfterTheEnd ? [200, 200, 200, 204] : [200, 200, 200]
      t.same(server.statuses, statuses, 'no reconnect loop after the end')
      t.equal(server.fastify.sseStreams.stats().resumed, 2)
    })
  }

  t.test(`${client.name} that is cut before the first event still gets the first event`, async (t) => {
    const server = await startServer(t, undefined)
    const reader = startReader(t, client, server.url)
    await reader.hasControl('stream-start')
    await server.cut()
    server.gate.release(20)
    await reader.stopped
    t.same(reader.tokens(), tokens(20))
    t.equal(server.runs(), 1)
  })

  t.test(`${client.name} stops at the end of a failed stream`, async (t) => {
    const server = await startServer(t, 'failing', new Error('model is down'))
    const reader = startReader(t, client, server.url)
    server.gate.release(20)
    await reader.stopped
    t.same(reader.tokens(), tokens(20))
    t.same(reader.control(), ['stream-start', 'stream-error', 'stream-end'])
    t.same(server.statuses, client.asksAgainAfterTheEnd ? [200, 204] : [200])
  })
}

function tokens(count: number): string[] {
  return Array.from({ length: count }, (_, index) => `token ${index + 1}`)
}

interface Server {
  readonly fastify: FastifyInstance
  readonly url: string
  readonly gate: StepGate
  readonly statuses: number[]
  runs(): number
  /** Destroys the sockets of all attached clients, and resolves when the server has noticed. */
  cut(): Promise<void>
}

async function startServer(t: Test, streamId: string | undefined, failure?: Error): Promise<Server> {
  const gate = new StepGate()
  const statuses: number[] = []
  const attached = new Set<Socket>()
  let runs = 0

  const fastify = Fastify({ forceCloseConnections: true })
  t.teardown(() => fastify.close())
  await fastify.register(streamPlugin, { retry: 40 })
  fastify.get('/stream', (request, reply) => {
    const { socket } = request.raw
    attached.add(socket)
    socket.once('close', () => attached.delete(socket))
    return reply.sseFromGenerator(
      async function* (signal) {
        runs++
        for (const token of tokens(20)) {
          await gate.pass(signal)
          yield { event: 'token', data: token }
        }
        if (failure) throw failure
      },
      { streamId }
    )
  })
  fastify.addHook('onSend', async (_request, reply) => void statuses.push(reply.statusCode))
  const address = await fastify.listen({ host: '127.0.0.1', port: 0 })

  return {
    fastify,
    url: `${address}/stream`,
    gate,
    statuses,
    runs: () => runs,
    async cut() {
      await Promise.all([...attached].map((socket) => once(socket.destroy(), 'close')))
    }
  }
}

interface Reader {
  readonly stopped: Promise<void>
  tokens(): string[]
  control(): string[]
  has(count: number): Promise<void>
  hasControl(event: string): Promise<void>
}

function startReader(t: Test, client: Client, url: string): Reader {
  const controller = new AbortController()
  t.teardown(() => controller.abort())
  const received: Received[] = []
  const watchers = new Set<() => void>()
  const until = (isReached: () => boolean): Promise<void> =>
    new Promise((resolve) => {
      const watch = (): void => {
        if (!isReached()) return
        watchers.delete(watch)
        resolve()
      }
      watchers.add(watch)
      watch()
    })
  const stopped = client.read(
    url,
    (event) => {
      received.push(event)
      for (const watch of watchers) watch()
    },
    controller.signal
  )
  const tokens = (): string[] => received.filter(({ event }) => event === 'token').map(({ data }) => data)
  const control = (): string[] => received.map(({ event }) => event).filter((event) => event !== 'token')
  return {
    stopped,
    tokens,
    control,
    has: (count) => until(() => tokens().length >= count),
    hasControl: (event) => until(() => control().includes(event))
  }
}
