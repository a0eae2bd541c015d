export { streamPlugin, streamPlugin as default } from './plugin.ts'
export type {
  AttachOptions,
  Backpressure,
  ClientOptions,
  MappedStreamOptions,
  StreamLifeOptions,
  StreamOptions,
  StreamPluginOptions
} from './options.ts'
export type { Serialize, SseInput, SseMessage, StreamOutcome } from './frame.ts'
export type { SseStreams, StreamHandler, StreamInfo } from './sse-streams.ts'
export type { StreamContext } from './stream-source.ts'
export type { RegistryStats } from './stats.ts'
export {
  EventInvalidError,
  EventTooLargeError,
  HandlerInvalidError,
  NestedRegistrationError,
  OptionInvalidError,
  OwnerInvalidError,
  RegistryFullError,
  ReplyNotReturnedError,
  ShuttingDownError,
  StoreInvalidError,
  StoreUnavailableError,
  StreamIdInvalidError,
  StreamNotFoundError,
  TooManyClientsError,
  TooManyStreamsError
} from './errors.ts'
export type { StreamStore } from './store/store.ts'
export type { ClientErrorCode } from './errors.ts'
