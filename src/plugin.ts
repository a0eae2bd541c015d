import type { FastifyInstance, FastifyPluginAsync, FastifyReply } from 'fastify'
import fp from 'fastify-plugin'
import { createSystemClock, type Clock } from './clock.ts'
import { Dispatcher } from './dispatcher.ts'
import { inspectValue, NestedRegistrationError, OptionInvalidError } from './errors.ts'
import type { SseInput } from './frame.ts'
import type { AttachOptions, MappedStreamOptions, StreamOptions, StreamPluginOptions } from './options.ts'
import { Registry } from './registry.ts'
import { Responder } from './reply.ts'
import { resolvePluginOptions, type PluginSettings } from './settings.ts'
import { SharedStreams, STORE_CLOSE_TIMEOUT_MS } from './shared-streams.ts'
import { FLUSH_TIMEOUT_MS, shutdownBudgetMs } from './shutdown.ts'
import type { Handler } from './stream-source.ts'
import { RegistryView, type SseStreams, type StreamHandler } from './sse-streams.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** The resumable streams of this scope. */
    readonly sseStreams: SseStreams
  }
  interface FastifyReply {
    /**
     * Answers with a stream: attaches to the one that `options.streamId` or the request's cursor names, and starts it if
     * there is none.
     *
     * @throws FST_ERR_RSSE_* for invalid options and refusals, and what `handler` throws synchronously; always before any
     *   header is sent, so that an ordinary Fastify error response follows
     */
    sseFromGenerator<T>(handler: StreamHandler<T>, options: MappedStreamOptions<T>): FastifyReply
    sseFromGenerator<T extends SseInput>(handler: StreamHandler<T>, options?: StreamOptions): FastifyReply
    /**
     * Answers with a stream that exists; never starts anything.
     *
     * @throws FST_ERR_RSSE_STREAM_NOT_FOUND unless `missing` is 204, FST_ERR_RSSE_* for invalid options and refusals
     */
    sseAttach(streamId: string, options?: AttachOptions): FastifyReply
  }
}

/** The plugin on a clock of its own; the system's, except in tests. */
export function createStreamPlugin(clock?: Clock): FastifyPluginAsync<StreamPluginOptions> {
  // Async, since Fastify takes what it rejects with for the failure of the registration, and would let a throw crash.
  const plugin: FastifyPluginAsync<StreamPluginOptions> = async (fastify, options) =>
    register(fastify, options, clock ?? createSystemClock())
  return fp(plugin, { name: 'fastify-resumable-sse', fastify: '5.x' })
}

/** Resumable Server-Sent Events: `reply.sseFromGenerator()`, `reply.sseAttach()` and `fastify.sseStreams`. */
export const streamPlugin: FastifyPluginAsync<StreamPluginOptions> = createStreamPlugin()

function register(fastify: FastifyInstance, options: StreamPluginOptions, clock: Clock): void {
  if (fastify.hasReplyDecorator('sseFromGenerator')) throw new NestedRegistrationError()
  const settings = resolvePluginOptions(options)
  assertClosesInTime(settings, fastify.initialConfig.pluginTimeout)
  const registry = new Registry(settings.registry, clock, fastify.log)
  const dispatcher = new Dispatcher()
  const shared = settings.store && new SharedStreams(settings.store, registry, settings.stream, clock, fastify.log)
  const responder = new Responder(registry, shared ?? registry, settings, dispatcher)

  fastify.decorate('sseStreams', new RegistryView(registry, shared, settings, fastify.log))
  fastify.decorateReply('sseFromGenerator', function (this: FastifyReply, handler: Handler, call?: StreamOptions) {
    return responder.sseFromGenerator(this, handler, call)
  } as FastifyReply['sseFromGenerator'])
  fastify.decorateReply('sseAttach', function (this: FastifyReply, streamId: string, call?: AttachOptions) {
    return responder.sseAttach(this, streamId, call)
  })

  fastify.addHook('onRequestAbort', (request, next) => {
    dispatcher.onRequestAbort(request)
    next()
  })
  fastify.addHook('onError', (request, reply, error, next) => {
    dispatcher.onError(request, reply, error)
    next()
  })
  if (shared !== undefined) {
    fastify.addHook('onReady', () => shared.open())
    fastify.addHook('onSend', (_request, reply, _payload, next) => {
      try {
        dispatcher.onSend(reply)
        next()
      } catch (error) {
        next(error as Error)
      }
    })
  }
  // Never rejects, and resolves to nothing: a `preClose` hook that does otherwise keeps those of other plugins from running.
  const closeAll = async (): Promise<void> => {
    try {
      await registry.close()
      await shared?.close(STORE_CLOSE_TIMEOUT_MS)
    } catch (error) {
      fastify.log.error({ err: error }, 'streams could not be closed in order')
    }
    dispatcher.closeSessions(clock, FLUSH_TIMEOUT_MS)
  }
  let closing: Promise<void> | undefined
  const close = (): Promise<void> => (closing ??= closeAll())
  fastify.addHook('preClose', close)
  // Others do otherwise, and `close()` would then wait for our responses for ever. Called before all `preClose` hooks, this
  // watches for a server that has been closed without ours.
  const closeWithServer = (): void => {
    if (registry.isShuttingDown) return
    if (fastify.server.listening) clock.setTimer(closeWithServer, 100)
    else void close()
  }
  fastify.addHook('onReady', async () => {
    ;(fastify as ClosingInstance).onClose?.(async () => closeWithServer())
  })
  fastify.addHook('onClose', async () => {
    const left = registry.size + registry.subscribers.size + registry.producers + registry.heartbeat.size
    if (left > 0) fastify.log.error({ left }, 'streams, responses or generators are left after close')
  })
}

// What avvio gives every instance, though Fastify's types do not say so.
interface ClosingInstance extends FastifyInstance {
  onClose?: (close: () => Promise<void>) => void
}

// Fastify gives a hook `pluginTimeout`; a longer shutdown would be cut off in the middle.
function assertClosesInTime({ registry, store }: PluginSettings, pluginTimeoutMs: number | undefined): void {
  if (pluginTimeoutMs === undefined || pluginTimeoutMs === 0) return
  const budgetMs = shutdownBudgetMs(registry) + (store === undefined ? 0 : STORE_CLOSE_TIMEOUT_MS)
  if (budgetMs < pluginTimeoutMs) return
  throw new OptionInvalidError(
    'drainTimeout',
    inspectValue(registry.drainTimeoutMs),
    `With abortTimeout and the time to flush, close() takes up to ${budgetMs} ms; ` +
      `keep it below Fastify's pluginTimeout (${pluginTimeoutMs} ms), or raise that.`
  )
}
