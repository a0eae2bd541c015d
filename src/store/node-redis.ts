import { setTimeout as delay } from 'node:timers/promises'
import { toError, type Connection, type ConnectionEvents, type ConnectionMaker } from './connection.ts'

// node-redis 5 and 6: a single server or a cluster.

type Listener = (message: Buffer, channel: Buffer) => void

/** What we use of both kinds of client. */
interface AnyClient {
  connect(): Promise<unknown>
  destroy(): void
  on(event: string, listener: (...args: never[]) => void): unknown
}

interface Client extends AnyClient {
  readonly options?: { readonly socket?: object }
  duplicate(overrides: object): Client
  sendCommand(command: readonly (string | Buffer)[], options: object): Promise<unknown>
  subscribe(channel: string, listener: Listener, bufferMode: true): Promise<void>
  unsubscribe(channel: string): Promise<void>
  ping(): Promise<unknown>
}

interface NodeOptions {
  readonly socket?: object
}

interface Node {
  /** Undefined where no connection was made yet. */
  readonly client?: AnyClient
}

interface Cluster extends AnyClient {
  readonly masters: readonly Node[]
  readonly _options?: { readonly rootNodes?: readonly NodeOptions[]; readonly defaults?: NodeOptions }
  duplicate(overrides: object): Cluster
  sendCommand(
    key: string,
    isReadonly: boolean,
    command: readonly (string | Buffer)[],
    options: object
  ): Promise<unknown>
  nodeClient(node: Node): Promise<Client> | Client
}

// RESP_TYPES.BLOB_STRING: the sign of the protocol.
const BULK_STRING = 36
const AS_BUFFERS = { typeMapping: { [BULK_STRING]: Buffer } }

/** Whether `client` is a client or a cluster of this family; a pool or a Sentinel client is not. */
export function isNodeRedis(client: object): boolean {
  if (!('withTypeMapping' in client && 'duplicate' in client && 'sendCommand' in client)) return false
  return isCluster(client) || ('options' in client && 'isReady' in client && !('acquire' in client))
}

function isCluster(client: object): boolean {
  return 'nodeClient' in client && 'masters' in client
}

export function nodeRedisMaker(template: object): ConnectionMaker {
  if (isCluster(template)) {
    const cluster = template as Cluster
    return {
      commands: (events, timeoutMs) => new ClusterConnection(cluster, events, timeoutMs),
      subscriptions: (events, timeoutMs, commands) =>
        new ClientConnection(() => (commands as ClusterConnection).anyNode(), events, timeoutMs)
    }
  }
  const client = template as Client
  const make = (events: ConnectionEvents, timeoutMs: number): Connection =>
    new ClientConnection(() => client, events, timeoutMs)
  return { commands: make, subscriptions: make }
}

// Nothing is queued, repeated or waited for in the client: whoever calls is told at once, and decides.
function settings(socket: object | undefined, timeoutMs: number): object {
  return {
    socket: { ...socket, connectTimeout: timeoutMs, socketTimeout: undefined, reconnectStrategy: false },
    disableOfflineQueue: true,
    commandsQueueMaxLength: undefined,
    commandOptions: { timeout: undefined },
    pingInterval: undefined,
    keyPrefix: undefined,
    readonly: false,
    clientSideCache: undefined,
    emitInvalidate: false,
    disableClientInfo: true,
    maintNotifications: 'disabled',
    RESP: 2
  }
}

// The first versions throw where there is nothing left to destroy.
function destroy(client: AnyClient | undefined): void {
  try {
    client?.destroy()
  } catch {
    // It is closed.
  }
}

/** A connection to one server. */
class ClientConnection implements Connection {
  readonly #source: () => Client | Promise<Client>
  readonly #events: ConnectionEvents
  readonly #timeoutMs: number
  #client: Client | undefined
  #hasSocket = false
  #isReady = false
  #isClosed = false
  // One for all channels, so that a channel that is asked for twice has it once.
  readonly #onMessage: Listener = (message, channel) => this.#events.onMessage(channel.toString(), message)

  constructor(source: () => Client | Promise<Client>, events: ConnectionEvents, timeoutMs: number) {
    this.#source = source
    this.#events = events
    this.#timeoutMs = timeoutMs
  }

  async connect(): Promise<void> {
    const source = await this.#source()
    if (this.#isClosed) throw new Error('the connection was closed')
    const client = source.duplicate(settings(source.options?.socket, this.#timeoutMs))
    this.#client = client
    client.on('error', (error: Error) => this.#lose(error))
    client.on('end', () => this.#lose(new Error('the connection was closed')))
    // Destroyed before it has a socket, it gets one all the same, and then nobody can close it any more.
    client.on('connect', () => {
      this.#hasSocket = true
      if (this.#isClosed) destroy(client)
    })
    try {
      await client.connect()
    } catch (error) {
      // It had no socket to be closed with, and may be listed somewhere.
      destroy(client)
      throw error
    }
    this.#isReady = !this.#isClosed
  }

  #lose(cause: Error): void {
    if (!this.#isReady) return
    this.#isReady = false
    this.#events.onLost(cause)
  }

  async send(_key: string, command: readonly (string | Buffer)[]): Promise<unknown> {
    return this.#connected.sendCommand(command, AS_BUFFERS)
  }

  async subscribe(channel: string): Promise<void> {
    await this.#connected.subscribe(channel, this.#onMessage, true)
  }

  async unsubscribe(channel: string): Promise<void> {
    await this.#connected.unsubscribe(channel)
  }

  async ping(): Promise<void> {
    await this.#connected.ping()
  }

  close(): void {
    this.#isReady = false
    this.#isClosed = true
    if (this.#hasSocket) destroy(this.#client)
  }

  get #connected(): Client {
    if (this.#client === undefined) throw new Error('the connection is not made yet')
    return this.#client
  }
}

// A duplicate takes these over whole or not at all, and there is no other way to see them. The first versions hide them:
// then nodes keep the settings of the user, and what is queued there is too late for whoever asked, and does no harm.
function nodeSettings({ _options: options }: Cluster, timeoutMs: number): object {
  if (options === undefined) return {}
  const { rootNodes = [], defaults } = options
  return {
    // The connection that asks a node for the others is in nobody's hands, and would wait for a hung one for ever.
    rootNodes: rootNodes.map((node) => ({ ...node, socket: { ...node.socket, socketTimeout: timeoutMs } })),
    defaults: { ...defaults, ...settings(defaults?.socket, timeoutMs) }
  }
}

/** Connections to the masters of a cluster. Losing one is no event: the next call there rejects. */
class ClusterConnection implements Connection {
  readonly #cluster: Cluster
  readonly #timeoutMs: number
  #connecting: Promise<unknown> | undefined
  #lastError: Error | undefined
  #isClosed = false

  constructor(template: Cluster, _events: ConnectionEvents, timeoutMs: number) {
    this.#timeoutMs = timeoutMs
    this.#cluster = template.duplicate({
      ...nodeSettings(template, timeoutMs),
      commandOptions: { timeout: undefined },
      clientSideCache: undefined,
      keyPrefix: undefined,
      useReplicas: false,
      RESP: 2
    })
    for (const event of ['error', 'node-error']) {
      this.#cluster.on(event, (error: Error) => {
        this.#lastError = error
      })
    }
    // Closed, it may still look for its nodes after one has sent it elsewhere, and connects to those that it finds.
    this.#cluster.on('node-ready', () => {
      if (this.#isClosed) void this.#letGo()
    })
  }

  async connect(): Promise<void> {
    try {
      this.#connecting = this.#cluster.connect()
      await this.#connecting
    } catch (error) {
      throw this.#lastError ?? toError(error)
    }
  }

  async send(key: string, command: readonly (string | Buffer)[]): Promise<unknown> {
    return this.#cluster.sendCommand(key, false, command, AS_BUFFERS)
  }

  subscribe(): Promise<void> {
    throw new Error('one node is enough for subscriptions')
  }

  unsubscribe(): Promise<void> {
    throw new Error('one node is enough for subscriptions')
  }

  async ping(): Promise<void> {
    const node = await this.anyNode()
    await node.ping()
  }

  close(): void {
    this.#isClosed = true
    void this.#letGo()
  }

  // What is destroyed while it is being connected is connected all the same, and then nobody can close it any more. So this
  // waits for what is under way, which a node that hangs may never let come to an end.
  async #letGo(): Promise<void> {
    const underWay = Promise.allSettled([this.#connecting]).then(() =>
      Promise.allSettled(this.#nodes.map(async (node) => this.#cluster.nodeClient(node)))
    )
    await Promise.race([underWay, delay(2 * this.#timeoutMs, undefined, { ref: false })])
    const nodes = this.#nodes
    destroy(this.#cluster)
    // Before 6.3 one that is closed keeps the cluster from closing those after it.
    for (const { client } of nodes) destroy(client)
  }

  get #nodes(): Node[] {
    return this.#cluster.masters.filter(({ client }) => client !== undefined)
  }

  async anyNode(): Promise<Client> {
    const { masters } = this.#cluster
    const master = masters[Math.floor(Math.random() * masters.length)]
    if (master === undefined) throw new Error('no node of the cluster is known')
    return this.#cluster.nodeClient(master)
  }
}
