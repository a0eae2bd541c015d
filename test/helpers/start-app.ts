import type { AddressInfo } from 'node:net'
import Fastify, { type FastifyInstance, type FastifyServerOptions, type InjectOptions } from 'fastify'
import type { Test } from 'tap'
import type { Clock } from '../../src/clock.ts'
import type { SseStreams, StreamPluginOptions } from '../../src/index.ts'
import { createStreamPlugin } from '../../src/plugin.ts'
import type { RedisStoreOptions, StreamStore } from '../../src/store/redis.ts'
import { AllStreams } from './all-streams.ts'
import { eventually } from './eventually.ts'
import { createStores, INSTANCES } from './shared-store.ts'
import { openSse, sendSse, type SseClient, type SseRequest } from './sse-client.ts'

export interface AppOptions {
  /** Options of the plugin; `false` leaves the registration to the test. */
  readonly plugin?: StreamPluginOptions | false | undefined
  /** For all instances, or for each as this says; the system's where nothing is said. */
  readonly clock?: Clock | ((instance: number) => Clock | undefined) | undefined
  readonly http2?: boolean | undefined
  readonly fastify?: FastifyServerOptions | undefined
  /** Of the store, where there are several instances. */
  readonly store?: RedisStoreOptions | undefined
  /** Runs before the plugin is registered, for hooks that come first. */
  readonly before?: ((fastify: FastifyInstance) => unknown) | undefined
}

type Injected = Awaited<ReturnType<FastifyInstance['inject']>>

/** What a test talks to: one instance, or several that share their streams, in turn. */
export interface App {
  /** The first instance. */
  readonly fastify: FastifyInstance
  /** Of the first instance. */
  readonly port: number
  /** The streams of all instances. */
  readonly streams: SseStreams
  /**
   * A request on a connection of its own; resolves with the head of the response. With several instances requests go to
   * one after the other, and a client that reconnects lands on another one.
   */
  open(path: string, request?: SseRequest): Promise<SseClient>
  /** The same, without waiting for the head. */
  send(path: string, request?: SseRequest): SseClient
  inject(options: InjectOptions): Promise<Injected>
  /** One of the instances by itself; there is always one. */
  at(index: number): App
  /** Resolves when all instances know of a stream what its home knows; with one there is nothing to wait for. */
  untilShared(streamId: string, owner?: string): Promise<void>
  /** Resolves when no instance has a stream, nor the store. */
  untilGone(streamId: string, owner?: string): Promise<void>
  close(): Promise<void>
}

/**
 * Starts a server with the plugin on a free port of 127.0.0.1; `setUp` adds routes, hooks and other plugins before it
 * listens. It is closed at the end of the test. Where tests run with several instances, it starts as many.
 */
export async function startApp(
  t: Test,
  setUp: (fastify: FastifyInstance) => unknown,
  options: AppOptions = {}
): Promise<App> {
  const isAlone = INSTANCES === 1 || options.plugin === false
  const stores = isAlone ? [undefined] : await createStores(t, options.store)
  const instances: FastifyInstance[] = []
  for (const [index, store] of stores.entries()) {
    const clock = typeof options.clock === 'function' ? options.clock(index) : options.clock
    instances.push(await startInstance(t, setUp, { ...options, clock }, store))
  }
  return appOf(t, instances, options)
}

async function startInstance(
  t: Test,
  setUp: (fastify: FastifyInstance) => unknown,
  options: AppOptions & { readonly clock: Clock | undefined },
  store: StreamStore | undefined
): Promise<FastifyInstance> {
  // The types of the protocols differ in their raw requests only, which the tests do not touch.
  const fastify = Fastify({ ...options.fastify, ...(options.http2 && { http2: true }) } as FastifyServerOptions)
  t.teardown(() => fastify.close())
  await options.before?.(fastify)
  if (options.plugin !== false) {
    await fastify.register(createStreamPlugin(options.clock), { ...options.plugin, ...(store && { store }) })
  }
  await setUp(fastify)
  await fastify.listen({ host: '127.0.0.1', port: 0 })
  return fastify
}

function appOf(t: Test, instances: readonly FastifyInstance[], options: AppOptions): App {
  const protocol = options.http2 ? 'h2' : 'http/1.1'
  const ports = instances.map(({ server }) => (server.address() as AddressInfo).port)
  const [fastify, port] = [instances[0] as FastifyInstance, ports[0] as number]
  const views = instances.flatMap(({ sseStreams }) => sseStreams ?? [])
  const streams = views.length === 1 ? (views[0] as SseStreams) : new AllStreams(views)
  let requests = 0
  const next = <T>(of: readonly T[]): T => of[requests++ % of.length] as T
  const portAfter = (last: number): number => ports[(ports.indexOf(last) + 1) % ports.length] as number

  return {
    fastify,
    port,
    streams,
    open: (path, request) => openSse(t, next(ports), path, { protocol, ...request }, portAfter),
    send: (path, request) => sendSse(t, next(ports), path, { protocol, ...request }, portAfter),
    inject: (request) => next(instances).inject(request),
    at: (index) => appOf(t, [instances[index % instances.length] as FastifyInstance], options),
    untilShared: async (streamId, owner) => {
      if (instances.length === 1) return
      await eventually(`what there is of ${streamId} is stored`, async () => {
        const stored = await streams.find(streamId, { owner })
        return views
          .flatMap((view) => view.get(streamId, { owner }) ?? [])
          .every(({ state, lastSequence }) => state === stored?.state && lastSequence === stored.lastSequence)
      })
    },
    untilGone: (streamId, owner) =>
      eventually(`${streamId} is gone`, async () => {
        return streams.get(streamId, { owner }) === undefined && (await streams.find(streamId, { owner })) === undefined
      }),
    close: async () => {
      await Promise.all(instances.map((instance) => instance.close()))
    }
  }
}
