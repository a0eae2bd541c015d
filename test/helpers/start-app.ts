import type { AddressInfo } from 'node:net'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import type { Test } from 'tap'
import type { Clock } from '../../src/clock.ts'
import type { StreamPluginOptions } from '../../src/index.ts'
import { createStreamPlugin } from '../../src/plugin.ts'
import { openSse, sendSse, type SseClient, type SseRequest } from './sse-client.ts'

export interface AppOptions {
  /** Options of the plugin; `false` leaves the registration to the test. */
  readonly plugin?: StreamPluginOptions | false | undefined
  readonly clock?: Clock | undefined
  readonly http2?: boolean | undefined
  readonly fastify?: FastifyServerOptions | undefined
  /** Runs before the plugin is registered, for hooks that come first. */
  readonly before?: ((fastify: FastifyInstance) => unknown) | undefined
}

export interface App {
  readonly fastify: FastifyInstance
  readonly port: number
  /** A request on a connection of its own; resolves with the head of the response. */
  open(path: string, request?: SseRequest): Promise<SseClient>
  /** The same, without waiting for the head. */
  send(path: string, request?: SseRequest): SseClient
}

/**
 * Starts a server with the plugin on a free port of 127.0.0.1; `setUp` adds routes, hooks and other plugins before it
 * listens. It is closed at the end of the test.
 */
export async function startApp(
  t: Test,
  setUp: (fastify: FastifyInstance) => unknown,
  options: AppOptions = {}
): Promise<App> {
  // The types of the protocols differ in their raw requests only, which the tests do not touch.
  const fastify = Fastify({ ...options.fastify, ...(options.http2 && { http2: true }) } as FastifyServerOptions)
  t.teardown(() => fastify.close())
  await options.before?.(fastify)
  if (options.plugin !== false) await fastify.register(createStreamPlugin(options.clock), options.plugin ?? {})
  await setUp(fastify)
  await fastify.listen({ host: '127.0.0.1', port: 0 })
  const { port } = fastify.server.address() as AddressInfo
  const protocol = options.http2 ? 'h2' : 'http/1.1'
  return {
    fastify,
    port,
    open: (path, request) => openSse(t, port, path, { protocol, ...request }),
    send: (path, request) => sendSse(t, port, path, { protocol, ...request })
  }
}
