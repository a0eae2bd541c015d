import type { Duplex } from 'node:stream'
import { toError, type Connection, type ConnectionEvents, type ConnectionMaker } from './connection.ts'

// ioredis 5 and 6, and iovalkey: a single server, Sentinel or Cluster.

/** What we use of a client of this family. */
interface Client {
  duplicate(...overrides: object[]): Client
  connect(): Promise<void>
  disconnect(): void
  callBuffer(command: string, ...args: (string | Buffer)[]): Promise<unknown>
  subscribe(channel: string): Promise<unknown>
  unsubscribe(channel: string): Promise<unknown>
  ping(): Promise<unknown>
  on(event: string, listener: (...args: never[]) => void): unknown
  readonly isCluster: boolean
  readonly options: { readonly sentinels?: readonly unknown[] | null }
  /** The socket; a cluster has none of its own. */
  readonly stream?: Duplex
}

interface Cluster extends Client {
  nodes(role: 'all'): Client[]
}

/** Whether `client` is one of this family. */
export function isIoredis(client: object): boolean {
  return 'callBuffer' in client && typeof client.callBuffer === 'function' && 'isCluster' in client
}

export function ioredisMaker(template: object): ConnectionMaker {
  const client = template as Client
  return {
    commands: (events, timeoutMs) => {
      const ours = settings(client, timeoutMs)
      const duplicate = client.isCluster
        ? client.duplicate([], {
            ...ours,
            clusterRetryStrategy: () => null,
            slotsRefreshTimeout: timeoutMs,
            scaleReads: 'master',
            redisOptions: ours
          })
        : client.duplicate(ours)
      return new IoredisConnection(duplicate, events)
    },
    subscriptions: (events, timeoutMs, commands) => {
      const source = client.isCluster ? (commands as IoredisConnection).anyNode() : client
      return new IoredisConnection(source.duplicate(settings(client, timeoutMs)), events)
    }
  }
}

// Nothing is queued, repeated or waited for in the client: whoever calls is told at once, and decides.
function settings({ options }: Client, timeoutMs: number): object {
  // Every attempt begins at the first Sentinel. A silent one must leave time for the others, and for the server.
  const shareMs = Math.floor(timeoutMs / ((options.sentinels?.length ?? 0) + 1))
  return {
    lazyConnect: true,
    // To a Sentinel, and to the server: while one is gone, the Sentinels are soon asked again.
    connectTimeout: shareMs,
    // It includes the time to connect. Without it, a connection to a Sentinel that hangs is never closed.
    sentinelCommandTimeout: shareMs,
    // It asks a Sentinel a second question, of which nothing outlasts the attempt.
    updateSentinels: false,
    // Its connections begin when ours is there, even if ours has been given up: then nobody closes them.
    failoverDetector: false,
    // How long a server that does not say goodbye keeps the process alive.
    disconnectTimeout: 50,
    retryStrategy: () => null,
    sentinelRetryStrategy: () => null,
    reconnectOnError: null,
    maxRetriesPerRequest: 0,
    commandTimeout: undefined,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    autoResubscribe: false,
    enableAutoPipelining: false,
    // It asks INFO, which needs a permission; we try what we need.
    enableReadyCheck: false,
    keyPrefix: '',
    readOnly: false,
    monitor: false,
    disableClientInfo: true,
    protocol: 2,
    replyMapping: 'legacy',
    stringNumbers: false
  }
}

class IoredisConnection implements Connection {
  readonly #client: Client
  readonly #events: ConnectionEvents
  #isReady = false
  #lastError: Error | undefined
  #isCorked = false

  constructor(client: Client, events: ConnectionEvents) {
    this.#client = client
    this.#events = events
    client.on('error', (error: Error) => {
      this.#lastError = mostTelling(error)
    })
    client.on('messageBuffer', (channel: Buffer, message: Buffer) => events.onMessage(channel.toString(), message))
    client.on('end', () => {
      if (!this.#isReady) return
      this.#isReady = false
      this.#events.onLost(this.#lastError ?? new Error('the connection was closed'))
    })
  }

  async connect(): Promise<void> {
    try {
      await this.#client.connect()
      this.#isReady = true
    } catch (error) {
      // The rejection says that the connection is closed, the event before it says why.
      throw this.#lastError ?? toError(error)
    }
    // Nobody reads the reply to AUTH: a wrong password is an event.
    if (this.#lastError !== undefined) throw this.#lastError
  }

  send(_key: string, [name = '', ...args]: readonly (string | Buffer)[]): Promise<unknown> {
    this.#cork()
    return this.#client.callBuffer(String(name), ...args)
  }

  // What is sent in one tick goes out in one write: the system call costs more than everything else about a command.
  #cork(): void {
    const { stream } = this.#client
    if (this.#isCorked || stream === undefined) return
    this.#isCorked = true
    stream.cork()
    process.nextTick(() => {
      this.#isCorked = false
      stream.uncork()
    })
  }

  async subscribe(channel: string): Promise<void> {
    await this.#client.subscribe(channel)
  }

  async unsubscribe(channel: string): Promise<void> {
    await this.#client.unsubscribe(channel)
  }

  async ping(): Promise<void> {
    await this.#client.ping()
  }

  close(): void {
    this.#isReady = false
    this.#client.disconnect()
  }

  anyNode(): Client {
    const nodes = (this.#client as Cluster).nodes('all')
    const node = nodes[Math.floor(Math.random() * nodes.length)]
    if (node === undefined) throw new Error('no node of the cluster is known')
    return node
  }
}

// A cluster client wraps what its nodes said.
function mostTelling(error: Error & { lastNodeError?: unknown }): Error {
  return error.lastNodeError === undefined ? error : toError(error.lastNodeError)
}
