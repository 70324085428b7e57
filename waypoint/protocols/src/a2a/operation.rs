//! The operations of A2A, under one name each (A2A 1.0 §5.3).

use crate::facts::Kind;

/// What is asked of an agent: the eleven operations of A2A 1.0 and the public card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// `message/send` · `SendMessage` · POST `/message:send`
    SendMessage,
    /// `message/stream` · `SendStreamingMessage` · POST `/message:stream`
    SendStreamingMessage,
    /// `tasks/get` · `GetTask` · GET `/tasks/{id}`
    GetTask,
    /// `ListTasks` · GET `/tasks`
    ListTasks,
    /// `tasks/cancel` · `CancelTask` · POST `/tasks/{id}:cancel`
    CancelTask,
    /// `tasks/resubscribe` · `SubscribeToTask` · gRPC 0.3 `TaskSubscription` · POST or GET `/tasks/{id}:subscribe`
    SubscribeToTask,
    /// `tasks/pushNotificationConfig/set` · `CreateTaskPushNotificationConfig` · POST `/tasks/{id}/pushNotificationConfigs`
    CreateTaskPushNotificationConfig,
    /// `tasks/pushNotificationConfig/get` · `GetTaskPushNotificationConfig`
    GetTaskPushNotificationConfig,
    /// `tasks/pushNotificationConfig/list` · `ListTaskPushNotificationConfigs`
    ListTaskPushNotificationConfigs,
    /// `tasks/pushNotificationConfig/delete` · `DeleteTaskPushNotificationConfig`
    DeleteTaskPushNotificationConfig,
    /// `agent/getAuthenticatedExtendedCard` · `GetExtendedAgentCard` · gRPC 0.3 `GetAgentCard` · GET `/v1/card`
    GetExtendedAgentCard,
    /// GET `/.well-known/agent-card.json`, in 0.2 `agent.json`: the public card.
    GetAgentCard,
}

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binding {
    /// JSON-RPC 2.0 in the body of a POST.
    JsonRpc,
    /// Methods and paths of HTTP with JSON.
    Rest,
    /// gRPC of either package.
    Grpc,
}

/// Whose names for methods and members a request uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vocabulary {
    /// Up to 0.3: `tasks/get`, package `a2a.v1`, ids inside resource names.
    Old,
    /// From 1.0: `GetTask`, package `lf.a2a.v1`.
    New,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::SendMessage,
        Self::SendStreamingMessage,
        Self::GetTask,
        Self::ListTasks,
        Self::CancelTask,
        Self::SubscribeToTask,
        Self::CreateTaskPushNotificationConfig,
        Self::GetTaskPushNotificationConfig,
        Self::ListTaskPushNotificationConfigs,
        Self::DeleteTaskPushNotificationConfig,
        Self::GetExtendedAgentCard,
        Self::GetAgentCard,
    ];

    /// The name in A2A 1.0, which policies use; `GetAgentCard` for the public card, which has none.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SendMessage => "SendMessage",
            Self::SendStreamingMessage => "SendStreamingMessage",
            Self::GetTask => "GetTask",
            Self::ListTasks => "ListTasks",
            Self::CancelTask => "CancelTask",
            Self::SubscribeToTask => "SubscribeToTask",
            Self::CreateTaskPushNotificationConfig => "CreateTaskPushNotificationConfig",
            Self::GetTaskPushNotificationConfig => "GetTaskPushNotificationConfig",
            Self::ListTaskPushNotificationConfigs => "ListTaskPushNotificationConfigs",
            Self::DeleteTaskPushNotificationConfig => "DeleteTaskPushNotificationConfig",
            Self::GetExtendedAgentCard => "GetExtendedAgentCard",
            Self::GetAgentCard => "GetAgentCard",
        }
    }

    /// The operation under the name of 1.0.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.name() == name)
    }

    /// The public card follows access, everything else is a call.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::GetAgentCard => Kind::Lifecycle,
            _ => Kind::Call,
        }
    }

    /// Whether it sends a message.
    #[must_use]
    pub fn sends(self) -> bool {
        matches!(self, Self::SendMessage | Self::SendStreamingMessage)
    }

    /// Whether it cannot be without the task that it is about.
    pub(super) fn needs_task(self) -> bool {
        match self {
            Self::GetTask
            | Self::CancelTask
            | Self::SubscribeToTask
            | Self::CreateTaskPushNotificationConfig
            | Self::GetTaskPushNotificationConfig
            | Self::ListTaskPushNotificationConfigs
            | Self::DeleteTaskPushNotificationConfig => true,
            Self::SendMessage
            | Self::SendStreamingMessage
            | Self::ListTasks
            | Self::GetExtendedAgentCard
            | Self::GetAgentCard => false,
        }
    }

    /// Whether it is about one push notification config of a task.
    pub(super) fn is_push(self) -> bool {
        matches!(
            self,
            Self::CreateTaskPushNotificationConfig
                | Self::GetTaskPushNotificationConfig
                | Self::ListTaskPushNotificationConfigs
                | Self::DeleteTaskPushNotificationConfig
        )
    }

    /// A method of JSON-RPC, compared by byte. Names of 0.1 (`tasks/send` and its like) are not known.
    pub(super) fn of_json_rpc(method: &str) -> Option<(Self, Vocabulary)> {
        let old = match method {
            "message/send" => Self::SendMessage,
            "message/stream" => Self::SendStreamingMessage,
            "tasks/get" => Self::GetTask,
            "tasks/list" => Self::ListTasks,
            "tasks/cancel" => Self::CancelTask,
            "tasks/resubscribe" => Self::SubscribeToTask,
            "tasks/pushNotificationConfig/set" => Self::CreateTaskPushNotificationConfig,
            "tasks/pushNotificationConfig/get" => Self::GetTaskPushNotificationConfig,
            "tasks/pushNotificationConfig/list" => Self::ListTaskPushNotificationConfigs,
            "tasks/pushNotificationConfig/delete" => Self::DeleteTaskPushNotificationConfig,
            "agent/getAuthenticatedExtendedCard" | "agent/authenticatedExtendedCard" => {
                Self::GetExtendedAgentCard
            }
            // The public card is a resource of HTTP and no method.
            "GetAgentCard" => return None,
            _ => return Self::parse(method).map(|operation| (operation, Vocabulary::New)),
        };
        Some((old, Vocabulary::Old))
    }

    /// A path of gRPC, compared by byte. Both packages are served on one port by the SDKs.
    pub(super) fn of_grpc(path: &str) -> Option<(Self, Vocabulary)> {
        if let Some(method) = path.strip_prefix("/lf.a2a.v1.A2AService/") {
            let operation = Self::parse(method).filter(|operation| *operation != Self::GetAgentCard)?;
            return Some((operation, Vocabulary::New));
        }
        let old = match path.strip_prefix("/a2a.v1.A2AService/")? {
            "TaskSubscription" => Self::SubscribeToTask,
            "ListTaskPushNotificationConfig" => Self::ListTaskPushNotificationConfigs,
            "GetAgentCard" => Self::GetExtendedAgentCard,
            // Names that came with 1.0.
            "SubscribeToTask" | "ListTaskPushNotificationConfigs" | "GetExtendedAgentCard" | "ListTasks" => {
                return None;
            }
            method => Self::parse(method)?,
        };
        Some((old, Vocabulary::Old))
    }
}
