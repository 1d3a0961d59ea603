"""What several tests share: toys, projects, servers, browsers."""
