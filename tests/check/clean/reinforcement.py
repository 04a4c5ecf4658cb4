"""Agents: several backwards, networks that follow, and batches that are used again."""

import copy

import torch
from torch import nn
from torch.distributions import Categorical, Normal
from torch.nn import functional as F

GENERATOR = torch.Generator().manual_seed(0)
STATES = torch.randn(32, 4, generator=GENERATOR)
REWARDS = torch.randn(32, generator=GENERATOR)


def _net(out, inputs=4):
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, out))


def reinforce(tell):
    """PyTorch's example: the losses of an episode are summed, then one update."""
    policy = _net(2)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    tell(policy, optimizer)
    for episode in range(5):
        losses, returns = [], []
        for state, reward in zip(STATES[:8], REWARDS[episode : episode + 8], strict=True):
            chances = Categorical(logits=policy(state.unsqueeze(0)))
            action = chances.sample()
            losses.append(-chances.log_prob(action) * reward)
            returns.append(reward)
        optimizer.zero_grad()
        torch.cat(losses).sum().backward()
        optimizer.step()


def reinforce_with_softmax_policy(tell):
    policy = nn.Sequential(_net(2), nn.Softmax(dim=-1))
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    tell(policy, optimizer)
    for _ in range(4):
        chances = Categorical(policy(STATES))
        action = chances.sample()
        optimizer.zero_grad()
        (-chances.log_prob(action) * REWARDS).mean().backward()
        optimizer.step()


def actor_and_critic():
    actor, critic = _net(2), _net(1)
    of_actor = torch.optim.Adam(actor.parameters(), lr=0.01)
    of_critic = torch.optim.Adam(critic.parameters(), lr=0.01)
    for state, reward in zip(STATES.split(4), REWARDS.split(4), strict=True):
        value = critic(state).squeeze(-1)
        chances = Categorical(logits=actor(state))
        action = chances.sample()
        advantage = reward - value
        of_actor.zero_grad()
        (-chances.log_prob(action) * advantage.detach()).mean().backward()
        of_actor.step()
        of_critic.zero_grad()
        advantage.pow(2).mean().backward()
        of_critic.step()


def advantage_actor_critic(tell):
    """One network with two heads, and smooth_l1_loss, as in PyTorch's example."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.actor, self.critic = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 1)

        def forward(self, x):
            x = F.relu(self.body(x))
            return F.softmax(self.actor(x), dim=-1), self.critic(x)

    model = Both()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    tell(model, optimizer)
    for _ in range(4):
        policy_losses, value_losses = [], []
        for state, reward in zip(STATES[:8], REWARDS[:8], strict=True):
            chances, value = model(state)
            chosen = Categorical(chances)
            policy_losses.append(-chosen.log_prob(chosen.sample()) * (reward - value.item()))
            value_losses.append(F.smooth_l1_loss(value, reward.view(1)))
        optimizer.zero_grad()
        (torch.stack(policy_losses).sum() + torch.stack(value_losses).sum()).backward()
        optimizer.step()


def deep_q_network():
    """PyTorch's tutorial: a target network that follows softly, clipped values, Huber's loss."""
    policy, target = _net(2), _net(2)
    target.load_state_dict(policy.state_dict())
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.01, amsgrad=True)
    for number in range(12):
        rows = torch.randint(31, (8,))
        actions = torch.randint(2, (8, 1))
        values = policy(STATES[rows]).gather(1, actions)
        with torch.no_grad():
            following = target(STATES[rows + 1]).max(1).values
        wanted = REWARDS[rows] + 0.9 * following
        loss = nn.SmoothL1Loss()(values, wanted.unsqueeze(1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_value_(policy.parameters(), 100)
        optimizer.step()
        if number % 4 == 3:
            target.load_state_dict(policy.state_dict())
        with torch.no_grad():
            policy(STATES[:1]).argmax()


def deep_q_network_without_no_grad():
    """The target's values are detached; a hard copy of the weights now and then."""
    policy = _net(2)
    target = copy.deepcopy(policy)
    optimizer = torch.optim.RMSprop(policy.parameters(), lr=0.01)
    for number in range(10):
        values = policy(STATES[:8])[:, 0]
        wanted = REWARDS[:8] + 0.9 * target(STATES[1:9]).max(1).values.detach()
        optimizer.zero_grad()
        F.huber_loss(values, wanted).backward()
        for p in policy.parameters():
            p.grad.data.clamp_(-1, 1)
        optimizer.step()
        if number % 5 == 0:
            target.load_state_dict(policy.state_dict())


def proximal_policy(tell):
    """Several epochs over one batch of experience, in shuffled minibatches."""

    class Agent(nn.Module):
        def __init__(self):
            super().__init__()
            self.actor, self.critic = _net(2), _net(1)

    agent = Agent()
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-3, eps=1e-5)
    tell(agent, optimizer)
    for _ in range(3):
        with torch.no_grad():
            old = Categorical(logits=agent.actor(STATES))
            actions = old.sample()
            before = old.log_prob(actions)
            advantages = REWARDS - agent.critic(STATES).squeeze(1)
        for _ in range(4):
            for rows in torch.randperm(32).split(8):
                chances = Categorical(logits=agent.actor(STATES[rows]))
                ratio = (chances.log_prob(actions[rows]) - before[rows]).exp()
                a = advantages[rows]
                a = (a - a.mean()) / (a.std() + 1e-8)
                surrogate = -torch.min(a * ratio, a * ratio.clamp(0.8, 1.2)).mean()
                value = agent.critic(STATES[rows]).view(-1)
                loss = surrogate - 0.01 * chances.entropy().mean()
                loss = loss + 0.5 * ((value - REWARDS[rows]) ** 2).mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()


def soft_actor_critic():
    """Two critics in one optimizer, an actor through them, and a learned temperature."""
    actor = _net(2)
    critics = nn.ModuleList([_net(1, inputs=5) for _ in range(2)])
    targets = copy.deepcopy(critics).requires_grad_(False)
    log_alpha = torch.zeros(1, requires_grad=True)
    of_actor = torch.optim.Adam(actor.parameters(), lr=3e-3)
    of_critics = torch.optim.Adam(critics.parameters(), lr=3e-3)
    of_alpha = torch.optim.Adam([log_alpha], lr=3e-3)

    def act(state):
        mean, spread = actor(state).chunk(2, dim=1)
        chances = Normal(mean, spread.clamp(-2, 2).exp())
        action = chances.rsample()
        return action, chances.log_prob(action)

    for k in range(8):
        state, reward = STATES[k : k + 8], REWARDS[k : k + 8].unsqueeze(1)
        with torch.no_grad():
            action, chance = act(STATES[k + 1 : k + 9])
            both = torch.cat([STATES[k + 1 : k + 9], action], 1)
            following = torch.min(*(target(both) for target in targets))
            wanted = reward + 0.9 * (following - log_alpha.exp() * chance)
        taken = torch.cat([state, torch.randn(8, 1)], 1)
        of_critics.zero_grad()
        sum(F.mse_loss(critic(taken), wanted) for critic in critics).backward()
        of_critics.step()
        action, chance = act(state)
        judged = torch.min(*(critic(torch.cat([state, action], 1)) for critic in critics))
        of_actor.zero_grad()
        (log_alpha.exp().detach() * chance - judged).mean().backward()
        of_actor.step()
        of_alpha.zero_grad()
        (-log_alpha * (chance.detach() - 1)).mean().backward()
        of_alpha.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(targets.parameters()), list(critics.parameters()), 0.01)


def delayed_policy_gradient():
    """TD3: the actor is updated at every second update of the critic."""
    actor, critic = _net(1), _net(1, inputs=5)
    of_actor = torch.optim.Adam(actor.parameters(), lr=1e-3)
    of_critic = torch.optim.Adam(critic.parameters(), lr=1e-3)
    for k in range(10):
        state, reward = STATES[k : k + 8], REWARDS[k : k + 8]
        value = critic(torch.cat([state, torch.randn(8, 1)], 1))
        critic_loss = F.mse_loss(value, reward.unsqueeze(1))
        of_critic.zero_grad()
        critic_loss.backward()
        of_critic.step()
        if k % 2:
            actor_loss = -critic(torch.cat([state, actor(state)], 1)).mean()
            of_actor.zero_grad()
            actor_loss.backward()
            of_actor.step()


def curiosity():
    """A random network that is never trained, and one that predicts it."""
    fixed, predictor = _net(4).requires_grad_(False), _net(4)
    optimizer = torch.optim.Adam(predictor.parameters(), lr=1e-3)
    for states in STATES.split(4):
        surprise = (predictor(states) - fixed(states)).pow(2).mean(1)
        optimizer.zero_grad()
        surprise.mean().backward()
        optimizer.step()


def preferences(tell):
    """Direct preference optimization: a frozen reference beside the policy."""
    policy = _net(6)
    reference = copy.deepcopy(policy).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    tell(policy, optimizer)
    chosen, rejected = torch.randint(6, (2, 32, 1))
    for _ in range(6):
        mine = F.log_softmax(policy(STATES), dim=-1)
        with torch.no_grad():
            theirs = F.log_softmax(reference(STATES), dim=-1)
        gain = (mine - theirs).gather(1, chosen) - (mine - theirs).gather(1, rejected)
        optimizer.zero_grad()
        (-F.logsigmoid(0.1 * gain).mean()).backward()
        optimizer.step()
