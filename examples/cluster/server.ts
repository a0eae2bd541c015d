/**
 * The demo of several instances: `npm run demo:cluster`, then open the address it prints. It wants a `redis-server` on
 * this machine. Another port: `PORT=3001 npm run demo:cluster`.
 *
 * Two instances of one application share their streams, and a page reads a text from whichever answers. Kill the one that
 * serves the page, and nothing is lost; kill the one that produces the text, and the page is told.
 */
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import type { StreamInfo } from '../../src/index.ts' // in your project: 'fastify-resumable-sse'
import { run, type Demo } from '../demo/command.ts'
import { servePage } from '../demo/page.ts'
import { words } from '../demo/text.ts'
import { InstanceProcess, type InstanceProcessOptions } from './instance-process.ts'
import { RoundRobinProxy } from './proxy.ts'
import { RedisProcess } from './redis-process.ts'

export interface ClusterOptions {
  /** What the instances run, and with which arguments. */
  readonly file?: URL | undefined
  readonly args?: readonly string[] | undefined
  /** How long a browser waits before it reconnects, in milliseconds. */
  readonly retry?: number | undefined
  /** How long a killed instance stays away, in milliseconds; the page says five seconds. */
  readonly restartMs?: number | undefined
}

const NAMES = ['A', 'B']

/** Redis, two instances, and in front of them the page and a proxy. */
export class Cluster implements Demo {
  readonly #options: Pick<InstanceProcessOptions, 'file' | 'args' | 'retry' | 'restartMs'>
  readonly #front = Fastify({ forceCloseConnections: true })
  #redis: RedisProcess | undefined
  #instances: readonly InstanceProcess[] = []
  #starting: Promise<void> = Promise.resolve()

  constructor(options: ClusterOptions = {}) {
    const { file = new URL('instance.ts', import.meta.url), args = [], retry = 2_500, restartMs = 5_000 } = options
    this.#options = { file, args, retry, restartMs }
  }

  async listen(host: string, port: number): Promise<string> {
    this.#starting = this.#start()
    await this.#starting
    serveFront(this.#front, this.#instances, this.#redis?.port)
    return this.#front.listen({ host, port })
  }

  async close(): Promise<void> {
    await this.#starting.catch(() => {})
    await this.#front.close()
    await Promise.all(this.#instances.map((instance) => instance.close()))
    await this.#redis?.stop()
  }

  async #start(): Promise<void> {
    this.#redis = await RedisProcess.start()
    const onError = (error: Error): void => {
      console.error(error.message)
      process.exitCode = 1
      void this.close()
    }
    const options = { ...this.#options, redisPort: this.#redis.port, onError }
    this.#instances = NAMES.map((name) => new InstanceProcess({ ...options, name }))
    await Promise.all(this.#instances.map((instance) => instance.start()))
  }
}

interface StreamRoute {
  Params: { name: string }
  Querystring: { tab?: string }
}

function serveFront(
  front: FastifyInstance,
  instances: readonly InstanceProcess[],
  redisPort: number | undefined
): void {
  const proxy = new RoundRobinProxy(instances)
  const forward = (request: FastifyRequest<StreamRoute>, reply: FastifyReply): void => {
    reply.hijack()
    proxy.forward({ request: request.raw, response: reply.raw, tab: request.query.tab ?? '' })
  }
  servePage(front, new URL('index.html', import.meta.url))

  front.get<StreamRoute>('/streams/:name', forward)
  front.post<StreamRoute>('/streams/:name', forward)
  front.post<StreamRoute>('/streams/:name/stop', forward)

  front.post<StreamRoute>('/streams/:name/drop', (request) => {
    proxy.cut(request.query.tab ?? '')
    return {}
  })

  front.post<StreamRoute>('/streams/:name/kill-serving', (request) => {
    const instance = proxy.servedBy(request.query.tab ?? '')
    instance?.kill()
    return { killed: instance?.name }
  })

  front.post<StreamRoute>('/streams/:name/kill-producing', async (request) => {
    const instance = producerOf(request.params.name, await report(instances, request.params.name))
    instance?.kill()
    return { killed: instance?.name }
  })

  // Polled, not streamed, as in the demo of one process.
  front.get<{ Querystring: { tab?: string; stream?: string } }>('/cluster', async ({ query }) => {
    const { tab = '', stream = '' } = query
    const reports = await report(instances, stream)
    return {
      words: words.length,
      redisPort,
      servedBy: proxy.servedBy(tab)?.name,
      producedBy: producerOf(stream, reports)?.name,
      written: reports.find(({ found }) => found !== undefined)?.found?.lastSequence,
      instances: reports.map(({ instance: { name, pid, port, backInMs }, streams }) => ({
        name,
        pid,
        port,
        backInMs,
        streams
      }))
    }
  })
}

/** What one instance knows. */
interface Report {
  readonly instance: InstanceProcess
  /** What it holds: `list()` speaks of one process. */
  readonly streams: readonly StreamInfo[]
  /** The stream that was asked for, wherever it runs: `find()` asks the store. */
  readonly found?: StreamInfo
}

function report(instances: readonly InstanceProcess[], stream: string): Promise<Report[]> {
  return Promise.all(instances.map(async (instance) => ({ instance, ...(await ask(instance, stream)) })))
}

async function ask({ port }: InstanceProcess, stream: string): Promise<Omit<Report, 'instance'>> {
  if (port === undefined) return { streams: [] }
  try {
    const url = `http://127.0.0.1:${port}/registry?stream=${encodeURIComponent(stream)}`
    const response = await fetch(url, { signal: AbortSignal.timeout(1_000) })
    if (!response.ok) return { streams: [] }
    return (await response.json()) as Omit<Report, 'instance'>
  } catch {
    // It was killed a moment ago.
    return { streams: [] }
  }
}

function producerOf(stream: string, reports: readonly Report[]): InstanceProcess | undefined {
  const isIt = ({ streamId, home, state }: StreamInfo): boolean => streamId === stream && home && state === 'running'
  return reports.find(({ streams }) => streams.some(isIt))?.instance
}

if (process.argv[1] === import.meta.filename) await run('demo:cluster', () => new Cluster())
